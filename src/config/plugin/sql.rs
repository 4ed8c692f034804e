//! The kind `sql`: a database, and a statement for each hook.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Answer, Kind, PluginKind, Read, read_url};
use crate::config::document::{Origin, Section};
use crate::config::outside::Outside;
use crate::event::Hook;
use crate::plugin::{DeliveryPolicy, SqlSettings};

pub(super) const KIND: Kind = Kind {
    name: "sql",
    keys: &[
        "url",
        "url_env",
        "session_start",
        "session_end",
        "gateway_start",
        "gateway_shutdown",
        "gateway_pre_restart",
    ],
    required: &["url", "url_env"],
    max_batch: DeliveryPolicy::MAX_BATCH,
    max_in_flight: None,
    read,
};

fn read(
    Read {
        section, outside, ..
    }: Read<'_, '_, '_>,
) -> Answer {
    if let Some(origin) = section.take("hooks") {
        let problem = "`plugin.hooks` is not for kind `sql`, expected a statement for each hook";
        section.refuse(origin, problem);
    }
    let mut settings = read_database(section, outside)
        // Refused, and so never used; its statements are still looked at.
        .unwrap_or_else(|| SqlSettings::new(""));
    let mut has_statement = false;
    let mut origins = Vec::new();
    for hook in Hook::ALL {
        let name = hook.as_str();
        has_statement |= section.has(name);
        let Some(statement) = section.string(name) else {
            continue;
        };
        match settings.clone().with_statement(*hook, statement.value) {
            Ok(with_statement) => {
                settings = with_statement;
                origins.push((*hook, statement.origin));
            }
            Err(error) => {
                let problem = format!("{}: {}", section.full(name), error.problem);
                section.refuse(statement.origin, problem);
            }
        }
    }
    if !has_statement {
        let names: Vec<_> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
        let problem = format!(
            "a plugin of kind `sql` has no statement, expected at least one of {}",
            names.join(", ")
        );
        section.refuse(section.origin, problem);
    }
    warn_of_misfits(section, &settings, &origins);
    Some((settings.hooks(), PluginKind::Sql(settings)))
}

/// The tables may be made later, like the database: nothing is refused.
fn warn_of_misfits(section: &Section<'_, '_>, settings: &SqlSettings, origins: &[(Hook, Origin)]) {
    let path = settings.path();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let database = path.display();
    match settings.misfits() {
        Ok(misfits) => {
            for (hook, misfit) in misfits {
                let origin = origins.iter().find(|(of, _)| *of == hook);
                let origin = origin.map_or(section.origin, |(_, origin)| *origin);
                let name = section.full(hook.as_str());
                let warning =
                    format!("{name} does not fit the database {database} as it is now: {misfit}");
                section.warn(origin, warning);
            }
        }
        Err(error) => section.warn(
            section.origin,
            format!("{database} is no database: {error}"),
        ),
    }
}

fn read_database(section: &mut Section<'_, '_>, outside: Outside<'_>) -> Option<SqlSettings> {
    let url = read_url(section, outside, "a plugin of kind `sql` has no database")?;
    // The URL itself is in no message: it may hold a secret.
    match SqlSettings::from_url(&url.value, outside.base) {
        Ok(settings) => {
            if let Err(problem) = check_file(settings.path()) {
                section.warn(url.origin, format!("the database {problem}"));
            }
            Some(settings)
        }
        Err(error) => {
            let problem = format!("the database's URL is refused: {}", error.problem);
            section.refuse(url.origin, problem);
            None
        }
    }
}

/// The file may be missing: the plugin waits for it. A path that is wrong looks the same.
fn check_file(path: &Path) -> Result<(), String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Err(format!("{shown} is a directory, expected a file")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!(
            "{shown} is not there yet, expected a file, which is never made: {error}"
        )),
        Err(error) => Err(format!("{shown} can't be looked at: {error}")),
    }
}
