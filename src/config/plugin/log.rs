//! The kind `log`: a file or standard output.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Kind, PluginKind, Read, read_hooks};
use crate::plugin::DeliveryPolicy;

pub(super) const KIND: Kind = Kind {
    name: "log",
    keys: &["hooks", "path"],
    required: &["path"],
    max_batch: DeliveryPolicy::MAX_BATCH,
    max_in_flight: None,
    read,
};

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error, for a gateway whose standard output is somebody else's.
    Stderr,
    /// The end of a file.
    File(PathBuf),
}

fn read(
    Read {
        section, outside, ..
    }: Read<'_, '_, '_>,
) -> super::Answer {
    let hooks = read_hooks(section);
    let target = section.required("path").map(|path| {
        if path.value == "-" {
            return LogTarget::Stdout;
        }
        let file = outside.path(&path.value);
        if let Err(problem) = check_file(&file) {
            section.refuse(path.origin, format!("`plugin.path` {problem}"));
        }
        LogTarget::File(file)
    });
    Some((hooks, PluginKind::Log(target?)))
}

/// The file may be missing: the plugin creates it. Its directory may not.
fn check_file(file: &Path) -> Result<(), String> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            let directory = directory.display();
            return Err(format!(
                "is in {directory}, expected that to be a directory"
            ));
        }
        Err(error) => {
            let directory = directory.display();
            return Err(if error.kind() == ErrorKind::NotFound {
                format!("is in the directory {directory}, which is not there: make it first")
            } else {
                format!("is in {directory}, expected a directory: {error}")
            });
        }
    }
    if file.is_dir() {
        let file = file.display();
        return Err(format!("is the directory {file}, expected a file"));
    }
    Ok(())
}
