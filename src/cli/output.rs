//! Standard output.

use std::io::{self, ErrorKind, Write};

use super::failure::Failure;

/// What is printed where something is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Table,
    /// The gateway's answer, for scripts
    Json,
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Format {
    /// How the answer is printed
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(super) format: Output,
}

/// Prints `text` and ends its last line.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let mut stdout = io::stdout().lock();
    let written = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
    match written {
        // Whoever reads has seen enough, such as `head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(format!(
            "can't write to standard output: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

/// Says something beside the output, on standard error.
pub(super) fn note(text: &str) {
    // `eprintln!` panics where nobody reads.
    let _ = writeln!(io::stderr(), "{text}");
}
