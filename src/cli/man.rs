//! `man`: manual pages, made from the commands themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::Cli;
use super::failure::Failure;
use super::output::print;

/// Prints the man page, for packages
#[derive(Debug, clap::Args)]
pub(super) struct ManPage {
    /// Writes the page of every command into this directory instead
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

impl ManPage {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Some(dir) = self.out_dir else {
            let mut page = Vec::new();
            Man::new(Cli::command())
                .render(&mut page)
                .map_err(|error| Failure::Failed(format!("the man page can't be made: {error}")))?;
            return print(&String::from_utf8_lossy(&page));
        };
        write_all(&dir).map_err(|error| {
            let dir = dir.display();
            Failure::Failed(format!("the man pages can't be written to {dir}: {error}"))
        })
    }
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
