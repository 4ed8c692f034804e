//! From settings to a command that can be started.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

use super::{CommandSettings, check_directory};

impl CommandSettings {
    /// The command as it is now: where the program is, and what the environment holds.
    ///
    /// # Errors
    ///
    /// When the program can't be found or executed, or its directory is none.
    pub(super) fn command(&self) -> anyhow::Result<Command> {
        let variable = |name: &str| env::var_os(name);
        let path = self.variable("PATH", &variable);
        let program = find(&self.program, path.as_deref()).map_err(anyhow::Error::msg)?;
        let mut command = Command::new(program);
        command.arg0(&self.program).args(&self.arguments);
        command.env_clear();
        let passed = self.passed.iter();
        command.envs(passed.filter_map(|name| Some((name, variable(name)?))));
        command.envs(&self.variables);
        if let Some(directory) = &self.directory {
            // What the system says of a missing one could as well be said of the program.
            check_directory(directory).map_err(anyhow::Error::msg)?;
            command.current_dir(directory);
        }
        Ok(command)
    }

    /// The program's name, for logs.
    pub(super) fn name(&self) -> String {
        let name = Path::new(&self.program).file_name();
        name.unwrap_or(&self.program).to_string_lossy().into_owned()
    }
}

/// Where `program` is: by its path, or in a directory of `path` if it is a name.
pub(super) fn find(program: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, String> {
    let shown = program.display();
    if program.as_bytes().contains(&b'/') {
        let file = absolute(program).map_err(|error| format!("`{shown}`: {error}"))?;
        return match check_executable(&file) {
            Ok(()) => Ok(file),
            Err(problem) => Err(format!(
                "`{}` {problem}, expected a program that can be run",
                file.display()
            )),
        };
    }
    let Some(path) = path else {
        return Err(format!(
            "`{shown}` is to be found in PATH, which the program is not given: add `PATH` to `pass_env`"
        ));
    };
    let files = env::split_paths(path).map(|directory| directory.join(program));
    let mut files = files.filter_map(|file| absolute(file).ok());
    files
        .find(|file| check_executable(file).is_ok())
        .ok_or_else(|| format!(
            "`{shown}` is in no directory of the PATH that it is given, expected a program that can be run"
        ))
}

fn check_executable(file: &Path) -> Result<(), String> {
    let metadata = file
        .metadata()
        .map_err(|error| format!("is not there: {error}"))?;
    if !metadata.is_file() {
        return Err("is no file".into());
    }
    match metadata.permissions().mode() & 0o111 {
        0 => Err("is not executable".into()),
        _ => Ok(()),
    }
}
