//! Values that a configuration only names: in the environment, or in a file of their own. They may be
//! secret, so they are in no message.

use std::fs::File;
use std::io::{self, Read as _, Take};
use std::path::{Path, PathBuf};

use super::document::{Given, Section};
use super::sources::Env;

/// Far more than the longest value, or than all authorities that a system trusts: whatever is larger was
/// named by mistake.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What the names in a configuration refer to.
#[derive(Clone, Copy)]
pub(super) struct Outside<'a> {
    /// What relative paths are relative to.
    pub(super) base: &'a Path,
    pub(super) env: &'a Env<'a>,
}

impl Outside<'_> {
    /// The path of a file, as seen from the configuration.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// What the environment has under the name that `key` gave. `expected` says what that should be.
    pub(super) fn variable(
        &self,
        section: &Section<'_, '_>,
        key: &str,
        name: &Given<String>,
        expected: &str,
    ) -> Option<Given<String>> {
        let found = self.env.get(&name.value);
        let problem = match found.map(std::ffi::OsString::into_string) {
            Some(Ok(value)) => return Some(Given::new(value, name.origin)),
            Some(Err(_)) => "is not UTF-8",
            None => "is not set",
        };
        let (key, variable) = (section.full(key), &name.value);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let problem = if variable.chars().all(is_name) {
            format!("{key} names {variable:?}, which {problem}, expected {expected} in it")
        } else {
            // It may be the secret itself, by mistake.
            format!("{key} is no name of a variable, expected one with {expected} in it")
        };
        section.refuse(name.origin, problem);
        None
    }

    /// What the file holds whose path `key` gave: a secret, so that it is warned of where everybody may
    /// open it. `expected` says what it should hold.
    pub(super) fn secret_file(
        &self,
        section: &Section<'_, '_>,
        key: &str,
        path: &Given<String>,
        expected: &str,
    ) -> Option<Given<String>> {
        let (text, is_exposed) = self.read(section, key, path, expected, |mut file| {
            let is_exposed = is_exposed(file.get_ref())?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok((text, is_exposed))
        })?;
        if is_exposed {
            let (key, full) = (section.full(key), self.path(&path.value));
            let shown = full.display();
            let warning =
                format!("{key}: every user of this machine may open {shown}, expected mode 0600");
            section.warn(path.origin, warning);
        }
        Some(Given::new(text, path.origin))
    }

    /// What the file holds whose path `key` gave, and which is no secret.
    pub(super) fn file(
        &self,
        section: &Section<'_, '_>,
        key: &str,
        path: &Given<String>,
        expected: &str,
    ) -> Option<Given<Vec<u8>>> {
        let bytes = self.read(section, key, path, expected, |mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        })?;
        Some(Given::new(bytes, path.origin))
    }

    /// What `take` makes of a file.
    fn read<T>(
        &self,
        section: &Section<'_, '_>,
        key: &str,
        path: &Given<String>,
        expected: &str,
        take: impl FnOnce(Take<File>) -> io::Result<T>,
    ) -> Option<T> {
        let full = self.path(&path.value);
        let taken = File::open(&full).and_then(|file| take(file.take(MAX_FILE_BYTES)));
        let refuse = |error| {
            let (key, shown) = (section.full(key), full.display());
            let problem =
                format!("{key}: {shown} can't be read, expected {expected} in it: {error}");
            section.refuse(path.origin, problem);
        };
        taken.map_err(refuse).ok()
    }
}

/// The text without the newline that an editor leaves at its end.
pub(super) fn without_newline(text: &str) -> &str {
    let line = text.strip_suffix("\r\n");
    line.or(text.strip_suffix('\n')).unwrap_or(text)
}

#[cfg(unix)]
fn is_exposed(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    // To read it or to put another in its place.
    Ok(file.metadata()?.permissions().mode() & 0o006 != 0)
}

#[cfg(not(unix))]
fn is_exposed(_: &File) -> io::Result<bool> {
    Ok(false)
}
