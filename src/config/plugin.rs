//! `[[plugin]]`: who is told, and how patiently.

use std::fs;
use std::path::{Path, PathBuf};

use humantime::format_duration;

use super::document::{Given, POSITIVE, Section};
use super::sources::Env;
use crate::event::{Hook, Hooks};
use crate::plugin::{DeliveryPolicy, SqlSettings, check_name};

const COMMON_KEYS: &[&str] = &[
    "name",
    "kind",
    "timeout",
    "retry_for",
    "backoff",
    "backoff_max",
    "max_attempts",
    "max_batch",
    "max_in_flight",
];
const LOG_KEYS: &[&str] = &["hooks", "path"];
const SQL_KEYS: &[&str] = &[
    "url",
    "url_env",
    "session_start",
    "session_end",
    "gateway_start",
    "gateway_shutdown",
    "gateway_pre_restart",
];
const ANY_KIND: &str = "expected `log` or `sql`";

/// A plugin as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginConfig {
    /// Unique among the plugins.
    pub(crate) name: String,
    /// What it is told of.
    pub(crate) hooks: Hooks,
    /// How patiently it is served.
    pub(crate) policy: DeliveryPolicy,
    /// What it does with what it is told.
    pub(crate) kind: PluginKind,
}

/// What a plugin does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginKind {
    /// Writes one JSON object per line.
    Log(LogTarget),
    /// Runs a statement per hook in an SQLite database, which may be missing: it is waited for.
    Sql(SqlSettings),
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

impl PluginConfig {
    /// The one plugin there is without a configuration file: a log to standard output.
    pub(super) fn standard() -> Self {
        Self {
            name: "log".into(),
            hooks: Hooks::SESSION,
            policy: DeliveryPolicy::default(),
            kind: PluginKind::Log(LogTarget::Stdout),
        }
    }

    /// The plugin and where its name stands. None if it was refused.
    pub(super) fn read(
        mut section: Section<'_, '_>,
        base: &Path,
        env: &Env<'_>,
    ) -> Option<Given<Self>> {
        let name = read_name(&mut section);
        let policy = read_policy(&mut section);
        let kind = section.required("kind")?;
        let (hooks, kind) = match kind.value.as_str() {
            "log" => read_log(section, base),
            "sql" => read_sql(section, base, env),
            other => {
                let problem = match other {
                    "webhook" | "command" => "which this release does not have, ",
                    _ => "",
                };
                let problem = format!("`plugin.kind` is {other:?}, {problem}{ANY_KIND}");
                section.refuse(kind.origin, problem);
                return None;
            }
        };
        let name = name?;
        let plugin = Self {
            name: name.value,
            hooks,
            policy,
            kind: kind?,
        };
        Some(Given::new(plugin, name.origin))
    }
}

fn read_name(section: &mut Section<'_, '_>) -> Option<Given<String>> {
    let name = section.required("name")?;
    match check_name(&name.value) {
        Ok(()) => Some(name),
        Err(problem) => {
            section.refuse(name.origin, problem);
            None
        }
    }
}

fn read_policy(section: &mut Section<'_, '_>) -> DeliveryPolicy {
    let default = DeliveryPolicy::default();
    let mut duration = |key, default| {
        let given = section.duration(key, POSITIVE);
        (given.as_ref().map_or(default, |given| given.value), given)
    };
    let (timeout, _) = duration("timeout", default.timeout);
    let (retry_for, _) = duration("retry_for", default.retry_for);
    let (backoff, backoff_given) = duration("backoff", default.backoff);
    let (backoff_max, backoff_max_given) = duration("backoff_max", default.backoff_max);
    if backoff_max < backoff
        && let Some(given) = backoff_max_given.or(backoff_given)
    {
        let problem = format!(
            "`plugin.backoff` is {}, expected at most `backoff_max`, which is {}",
            format_duration(backoff),
            format_duration(backoff_max),
        );
        section.refuse(given.origin, problem);
    }
    let max_attempts = section.count("max_attempts");
    let max_batch = section.count("max_batch");
    // The kinds there are work through their events one after the other: the value is checked,
    // for the day that a plugin changes its kind, and has no effect.
    section.count::<usize>("max_in_flight");
    DeliveryPolicy {
        timeout,
        retry_for,
        backoff,
        backoff_max,
        max_attempts: max_attempts.unwrap_or(default.max_attempts),
        max_batch: max_batch.unwrap_or(default.max_batch),
        max_in_flight: 1,
    }
}

fn read_log(mut section: Section<'_, '_>, base: &Path) -> (Hooks, Option<PluginKind>) {
    refuse_foreign(&mut section, SQL_KEYS, "log", "sql");
    let hooks = read_hooks(&mut section);
    let target = section.required("path").map(|path| {
        if path.value == "-" {
            return LogTarget::Stdout;
        }
        let file = base.join(&path.value);
        if let Err(problem) = check_log_file(&file) {
            section.refuse(path.origin, format!("`plugin.path` {problem}"));
        }
        LogTarget::File(file)
    });
    section.finish(&[COMMON_KEYS, LOG_KEYS].concat());
    (hooks, target.map(PluginKind::Log))
}

/// The file may be missing: the plugin creates it. Its directory may not.
fn check_log_file(file: &Path) -> Result<(), String> {
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
            return Err(format!("is in {directory}, expected a directory: {error}"));
        }
    }
    if file.is_dir() {
        let file = file.display();
        return Err(format!("is the directory {file}, expected a file"));
    }
    Ok(())
}

fn read_hooks(section: &mut Section<'_, '_>) -> Hooks {
    let Some(names) = section.strings("hooks", false) else {
        return Hooks::SESSION;
    };
    if names.value.is_empty() {
        let problem = "`plugin.hooks` is empty, expected at least one hook";
        section.refuse(names.origin, problem);
    }
    let mut hooks = Hooks::NONE;
    for name in names.value {
        match name.value.parse() {
            Ok(hook) => hooks = hooks.with(hook),
            Err(expected) => {
                let problem = format!("`plugin.hooks` has {:?}, {expected}", name.value);
                section.refuse(name.origin, problem);
            }
        }
    }
    hooks
}

fn read_sql(
    mut section: Section<'_, '_>,
    base: &Path,
    env: &Env<'_>,
) -> (Hooks, Option<PluginKind>) {
    if let Some(origin) = section.take("hooks") {
        let problem = "`plugin.hooks` is not for kind `sql`, expected a statement for each hook";
        section.refuse(origin, problem);
    }
    refuse_foreign(&mut section, LOG_KEYS, "sql", "log");
    let mut settings = read_database(&mut section, base, env)
        // Refused, and so never used; its statements are still looked at.
        .unwrap_or_else(|| SqlSettings::new(""));
    let mut has_statement = false;
    for hook in Hook::ALL {
        let name = hook.as_str();
        has_statement |= section.has(name);
        let Some(statement) = section.string(name) else {
            continue;
        };
        match settings.clone().with_statement(*hook, statement.value) {
            Ok(with_statement) => settings = with_statement,
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
    section.finish(&[COMMON_KEYS, SQL_KEYS].concat());
    (settings.hooks(), Some(PluginKind::Sql(settings)))
}

fn read_database(section: &mut Section<'_, '_>, base: &Path, env: &Env<'_>) -> Option<SqlSettings> {
    if !section.has("url") && !section.has("url_env") {
        let problem = "a plugin of kind `sql` has no database, expected `url` or `url_env`";
        section.refuse(section.origin, problem);
    }
    let (url, url_env) = (section.string("url"), section.string("url_env"));
    let url = match (url, url_env) {
        (Some(_), Some(url_env)) => {
            let problem = "`plugin.url_env` is given beside `url`, expected one of them";
            section.refuse(url_env.origin, problem);
            return None;
        }
        (Some(url), None) => url,
        (None, Some(url_env)) => {
            let Some(url) = env.get(&url_env.value) else {
                let problem = format!(
                    "`plugin.url_env` names {:?}, which is not set, expected a URL in it",
                    url_env.value
                );
                section.refuse(url_env.origin, problem);
                return None;
            };
            let Ok(url) = url.into_string() else {
                let problem = format!(
                    "`plugin.url_env` names {:?}, which is not UTF-8, expected a URL in it",
                    url_env.value
                );
                section.refuse(url_env.origin, problem);
                return None;
            };
            url_env.map(|_| url)
        }
        (None, None) => return None,
    };
    // The URL itself is in no message: it may hold a secret.
    match SqlSettings::from_url(&url.value, base) {
        Ok(settings) => Some(settings),
        Err(error) => {
            let problem = format!("the database's URL is refused: {}", error.problem);
            section.refuse(url.origin, problem);
            None
        }
    }
}

fn refuse_foreign(section: &mut Section<'_, '_>, keys: &[&str], kind: &str, other: &str) {
    for key in keys {
        if let Some(origin) = section.take(key) {
            let problem =
                format!("`plugin.{key}` is for kind `{other}`, expected a key of `{kind}`");
            section.refuse(origin, problem);
        }
    }
}
