//! Events as the input of a program.

mod answer;
mod group;
mod output;
mod per_event;
mod program;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::stream::Stream;
use super::{DeliveryPolicy, Plugin};
use crate::event::Deliver;
use crate::session::InvalidField;

/// What a program is to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CommandMode {
    /// The program is started for each event, gets it as JSON on standard input, and answers by its
    /// exit code.
    #[default]
    PerEvent,
    /// The program is started once, gets a JSON line per event, and answers by a JSON line each.
    Stream,
}

impl CommandMode {
    /// Every mode.
    pub const ALL: &[Self] = &[Self::PerEvent, Self::Stream];

    /// The mode's name in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerEvent => "per_event",
            Self::Stream => "stream",
        }
    }

    /// `policy` as far as this mode can make use of it. `PerEvent` has one event in a delivery, so
    /// that each has its own time, and [`max_in_flight`](DeliveryPolicy::max_in_flight) is how many
    /// programs run side by side. `Stream` has one delivery at a time, since one that is not answered
    /// in time costs the program its life, and would cost others their answers.
    #[must_use]
    pub fn narrow(self, mut policy: DeliveryPolicy) -> DeliveryPolicy {
        match self {
            Self::PerEvent => policy.max_batch = 1,
            Self::Stream => policy.max_in_flight = 1,
        }
        policy
    }
}

/// Which program a [`CommandPlugin`] runs, and with what around it.
///
/// ```
/// use session_supervisor::{CommandMode, CommandPlugin, CommandSettings, DeliveryPolicy, PluginSpec};
///
/// let settings = CommandSettings::new(["/usr/local/bin/archive-session", "--json"])?
///     .passing("HOME")?
///     .with_variable("STAGE", "prod")?;
/// let mut policy = DeliveryPolicy::default();
/// policy.max_in_flight = 4;
/// let plugin = PluginSpec::new("archiver", move || CommandPlugin::new(settings.clone()))
///     .with_policy(CommandMode::PerEvent.narrow(policy));
/// # Ok::<(), session_supervisor::InvalidField>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CommandSettings {
    program: OsString,
    arguments: Vec<OsString>,
    mode: CommandMode,
    passed: Vec<String>,
    variables: BTreeMap<String, OsString>,
    directory: Option<PathBuf>,
}

impl CommandSettings {
    /// The program and its arguments, never seen by a shell. A program without a slash is looked for
    /// in the `PATH` that it is given itself, one with a slash that is relative starts at the current
    /// directory.
    ///
    /// The program is given nothing of the environment, and runs in the current directory.
    ///
    /// # Errors
    ///
    /// When there is no program, or something holds a NUL.
    pub fn new(
        command: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, InvalidField> {
        let refused = |problem| Err(InvalidField::new("command", problem));
        let mut command = command.into_iter().map(Into::into);
        let program = command.next().unwrap_or_default();
        if program.is_empty() {
            return refused("names no program");
        }
        let arguments: Vec<OsString> = command.collect();
        if has_nul(&program) || arguments.iter().any(|argument| has_nul(argument)) {
            return refused("must not contain NUL");
        }
        Ok(Self {
            program,
            arguments,
            mode: CommandMode::default(),
            passed: Vec::new(),
            variables: BTreeMap::new(),
            directory: None,
        })
    }

    /// Runs it in this mode instead of [`CommandMode::PerEvent`].
    #[must_use]
    pub fn with_mode(mut self, mode: CommandMode) -> Self {
        self.mode = mode;
        self
    }

    /// Passes the variable `name` on, with the value that it has when the program is started. One
    /// that is not set then is not passed.
    ///
    /// # Errors
    ///
    /// When `name` can't be the name of a variable.
    pub fn passing(mut self, name: impl Into<String>) -> Result<Self, InvalidField> {
        let name = name.into();
        check_variable("pass_env", &name)?;
        self.passed.push(name);
        Ok(self)
    }

    /// Sets the variable `name`, whether or not one of that name is [passed](Self::passing).
    ///
    /// # Errors
    ///
    /// When `name` can't be the name of a variable, or `value` its value.
    pub fn with_variable(
        mut self,
        name: impl Into<String>,
        value: impl Into<OsString>,
    ) -> Result<Self, InvalidField> {
        let (name, value) = (name.into(), value.into());
        check_variable("env", &name)?;
        if has_nul(&value) {
            let problem = format!("the value of `{name}` must not contain NUL");
            return Err(InvalidField::new("env", problem));
        }
        self.variables.insert(name, value);
        Ok(self)
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How it is run.
    pub fn mode(&self) -> CommandMode {
        self.mode
    }

    /// Says what would keep the program from being started now, with `variable` for the environment.
    /// Nothing is started.
    ///
    /// # Errors
    ///
    /// When the program can't be found or executed, or its directory is none.
    #[cfg(feature = "cli")]
    pub(crate) fn check(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(), InvalidField> {
        let found = program::find(&self.program, self.variable("PATH", variable).as_deref());
        found.map_err(|problem| InvalidField::new("command", problem))?;
        let directory = self.directory.as_deref().map_or(Ok(()), check_directory);
        directory.map_err(|problem| InvalidField::new("cwd", problem))
    }

    /// An argument that looks like a script for an interpreter, such as `archive.py`, and is no file, as
    /// the program will find it. It may well be something else.
    #[cfg(feature = "cli")]
    pub(crate) fn missing_script(&self) -> Option<PathBuf> {
        let directory = self.directory.clone().unwrap_or_default();
        let first = self
            .arguments
            .first()
            .map(|script| directory.join(script))?;
        let extension = first.extension()?.to_str()?;
        let is_script = ["js", "mjs", "pl", "py", "rb", "sh", "ts"].contains(&extension);
        let path = std::path::absolute(first).ok()?;
        (is_script && !path.exists()).then_some(path)
    }

    /// The value of a variable that the program is given.
    fn variable(
        &self,
        name: &str,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Option<OsString> {
        let passed = || {
            let is_passed = self.passed.iter().any(|passed| passed == name);
            is_passed.then(|| variable(name)).flatten()
        };
        self.variables.get(name).cloned().or_else(passed)
    }
}

/// The values of variables may be secrets.
impl fmt::Debug for CommandSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSettings")
            .field("program", &self.program)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn has_nul(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&0)
}

fn check_variable(field: &'static str, name: &str) -> Result<(), InvalidField> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let problem = format!("{name:?} is no name of a variable");
        return Err(InvalidField::new(field, problem));
    }
    Ok(())
}

fn check_directory(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    match directory.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("`{shown}` is no directory, expected one")),
        Err(error) => Err(format!("`{shown}`: {error}, expected a directory")),
    }
}

/// A plugin that gives events to a program, in a process group of its own.
///
/// It is [`Down`](super::Down) while the program can't be started. With [`CommandMode::PerEvent`] exit
/// code 0 acknowledges the event, 75 (`EX_TEMPFAIL`) says that the plugin is down, and anything else
/// rejects the event, with the last lines of standard error. With [`CommandMode::Stream`] the program
/// answers each event by itself; when it dies the plugin is down, and the next delivery starts it anew.
///
/// When the time of a delivery is over, the process group of the program gets SIGTERM, and half a
/// second later SIGKILL. When a program exits, what is left of its group is killed. When the plugin is
/// dropped, or the thread that it runs on ends, every group of it is killed before that returns; a
/// program that was not given up on sees the end of its input first, and has a tenth of a second to
/// exit. What leaves the group, with `setsid` say, is left alone.
#[derive(Debug)]
pub struct CommandPlugin {
    settings: Rc<CommandSettings>,
    stream: Stream,
}

impl CommandPlugin {
    /// A plugin that runs what `settings` say.
    pub fn new(settings: CommandSettings) -> Self {
        let settings = Rc::new(settings);
        Self {
            stream: Stream::new(Rc::clone(&settings)),
            settings,
        }
    }
}

impl Plugin for CommandPlugin {
    async fn deliver(&self, delivery: &Deliver) -> anyhow::Result<()> {
        match self.settings.mode {
            CommandMode::PerEvent => per_event::deliver(&self.settings, delivery).await,
            CommandMode::Stream => self.stream.deliver(delivery).await,
        }
    }
}
