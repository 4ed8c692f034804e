//! The kind `command`: a program and what it is given.

use super::{Answer, Kind, PluginKind, Read, read_hooks};
use crate::config::document::{Given, Origin, Section};
use crate::config::outside::Outside;
use crate::plugin::{CommandMode, CommandSettings};
use crate::session::InvalidField;

pub(super) const KIND: Kind = Kind {
    name: "command",
    keys: &["hooks", "command", "mode", "pass_env", "env", "cwd"],
    required: &["command"],
    max_batch: 256,
    max_in_flight: Some(4),
    read,
};

fn read(
    Read {
        section,
        outside,
        policy,
    }: Read<'_, '_, '_>,
) -> Answer {
    let hooks = read_hooks(section);
    let mode = read_mode(section);
    *policy = mode.narrow(policy.clone());
    let command = read_command(section, outside);
    let command_at = command.as_ref().map(|command| command.origin);
    let mut settings = command.map(|command| command.value.with_mode(mode));

    for name in section
        .strings("pass_env", false)
        .into_iter()
        .flat_map(|names| names.value)
    {
        settings = take(settings, section, name.origin, |settings| {
            settings.passing(name.value)
        });
    }
    for (name, value) in section.string_table("env").unwrap_or_default() {
        let set = |settings: CommandSettings| settings.with_variable(name, value.value);
        settings = take(settings, section, value.origin, set);
    }
    let cwd = section.string("cwd");
    let cwd_at = cwd.as_ref().map(|cwd| cwd.origin);
    if let Some(cwd) = cwd {
        let cwd = outside.path(&cwd.value);
        settings = settings.map(|settings| settings.in_directory(cwd));
    }

    let settings = settings?;
    if let Err(InvalidField { field, problem }) = settings.check(&|name| outside.env.get(name)) {
        let at = match field {
            "cwd" => cwd_at,
            _ => command_at,
        };
        let problem = format!("{}: {problem}", section.full(field));
        section.refuse(at.unwrap_or(section.origin), problem);
    }
    if let Some(script) = settings.missing_script() {
        let script = script.display();
        let warning = format!("`plugin.command`: {script} is not there, expected a file");
        section.warn(command_at.unwrap_or(section.origin), warning);
    }
    Some((hooks, PluginKind::Command(settings)))
}

/// Changes settings that are not refused yet.
fn take(
    settings: Option<CommandSettings>,
    section: &Section<'_, '_>,
    origin: Origin,
    change: impl FnOnce(CommandSettings) -> Result<CommandSettings, InvalidField>,
) -> Option<CommandSettings> {
    match change(settings?) {
        Ok(settings) => Some(settings),
        Err(InvalidField { field, problem }) => {
            section.refuse(origin, format!("{}: {problem}", section.full(field)));
            None
        }
    }
}

fn read_mode(section: &mut Section<'_, '_>) -> CommandMode {
    let Some(given) = section.string("mode") else {
        return CommandMode::default();
    };
    let found = CommandMode::ALL
        .iter()
        .find(|mode| mode.as_str() == given.value);
    if found.is_none() {
        let problem = format!(
            "{} is {:?}, expected `per_event` or `stream`",
            section.full("mode"),
            given.value
        );
        section.refuse(given.origin, problem);
    }
    found.copied().unwrap_or_default()
}

/// The program and its arguments. A path is as seen from the configuration.
fn read_command(
    section: &mut Section<'_, '_>,
    outside: Outside<'_>,
) -> Option<Given<CommandSettings>> {
    if !section.has("command") {
        let problem =
            "a plugin of kind `command` has no `command`, expected a program and its arguments";
        section.refuse(section.origin, problem);
    }
    let command = section.strings("command", false)?;
    let origin = command.origin;
    let mut command = command.value.into_iter().map(|argument| argument.value);
    let program = command.next().map(|program| match program.contains('/') {
        true => outside.path(&program).into_os_string(),
        false => program.into(),
    });
    let command = program.into_iter().chain(command.map(Into::into));
    match CommandSettings::new(command) {
        Ok(settings) => Some(Given::new(settings, origin)),
        Err(InvalidField { field, problem }) => {
            let problem = format!(
                "{} {problem}, expected a program and its arguments",
                section.full(field)
            );
            section.refuse(origin, problem);
            None
        }
    }
}
