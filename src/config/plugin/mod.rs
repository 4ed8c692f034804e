//! `[[plugin]]`: who is told, and how patiently.
//!
//! [`KINDS`] is the one place where a kind says what it is; each is in a file of its own.

mod command;
mod log;
mod sql;
mod webhook;

pub(crate) use self::log::LogTarget;
use super::as_written;
use super::document::{Given, POSITIVE, Section};
use super::outside::Outside;
use crate::event::Hooks;
use crate::plugin::{CommandSettings, DeliveryPolicy, SqlSettings, WebhookSettings, check_name};

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

const KINDS: &[&Kind] = &[&log::KIND, &sql::KIND, &webhook::KIND, &command::KIND];

/// A kind of plugin, as a configuration knows it.
struct Kind {
    name: &'static str,
    /// Its keys beside [`COMMON_KEYS`].
    keys: &'static [&'static str],
    /// Of these one has to be given, most often the first.
    required: &'static [&'static str],
    /// The most events in one delivery, unless said otherwise.
    max_batch: usize,
    /// The most deliveries side by side, unless said otherwise. With none there is one at a time,
    /// whatever is said: the plugin works through its events one after the other.
    max_in_flight: Option<usize>,
    /// Takes the kind's own keys.
    read: fn(Read<'_, '_, '_>) -> Answer,
}

/// What a kind reads.
struct Read<'r, 'a, 'd> {
    section: &'r mut Section<'a, 'd>,
    outside: Outside<'r>,
    /// As it was read from the common keys; the kind may narrow it.
    policy: &'r mut DeliveryPolicy,
}

/// What the plugin is told of, and what it does. None if it was refused.
type Answer = Option<(Hooks, PluginKind)>;

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
    /// Sends requests.
    Webhook(WebhookSettings),
    /// Gives each event to a program.
    Command(CommandSettings),
}

impl PluginKind {
    /// The kind's name.
    pub(crate) fn name(&self) -> &'static str {
        let kind = match self {
            Self::Log(_) => log::KIND,
            Self::Sql(_) => sql::KIND,
            Self::Webhook(_) => webhook::KIND,
            Self::Command(_) => command::KIND,
        };
        kind.name
    }
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
    pub(super) fn read(mut section: Section<'_, '_>, outside: Outside<'_>) -> Option<Given<Self>> {
        let name = read_name(&mut section);
        let kind = read_kind(&mut section);
        let mut policy = read_policy(&mut section, kind.unwrap_or(&log::KIND));
        let kind = kind?;
        let is_given = kind.required.iter().any(|key| section.has(key));
        let missing = kind.required.first().copied().filter(|_| !is_given);
        let answer = (kind.read)(Read {
            section: &mut section,
            outside,
            policy: &mut policy,
        });
        refuse_foreign(&mut section, kind);
        section.finish_without(missing, &[kind.keys, COMMON_KEYS].concat());
        let (name, (hooks, kind)) = (name?, answer?);
        let plugin = Self {
            name: name.value,
            hooks,
            policy,
            kind,
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

fn read_kind(section: &mut Section<'_, '_>) -> Option<&'static Kind> {
    let given = section.required("kind")?;
    let found = KINDS.iter().find(|kind| kind.name == given.value);
    if found.is_none() {
        let kinds = list(KINDS.iter().copied(), "or");
        let problem = format!("`plugin.kind` is {:?}, expected {kinds}", given.value);
        section.refuse(given.origin, problem);
    }
    found.copied()
}

fn read_policy(section: &mut Section<'_, '_>, kind: &Kind) -> DeliveryPolicy {
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
            as_written(backoff),
            as_written(backoff_max),
        );
        section.refuse(given.origin, problem);
    }
    let max_attempts = section.count("max_attempts");
    let max_batch = section.count("max_batch");
    // Checked in any case, for the day that a plugin changes its kind.
    let max_in_flight = section.count("max_in_flight");
    let in_flight = |default| max_in_flight.unwrap_or(default);
    DeliveryPolicy {
        timeout,
        retry_for,
        backoff,
        backoff_max,
        max_attempts: max_attempts.unwrap_or(default.max_attempts),
        max_batch: max_batch.unwrap_or(kind.max_batch),
        max_in_flight: kind.max_in_flight.map_or(1, in_flight),
    }
}

/// What a plugin is told of, where its kind has no say in it.
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

/// A URL, of which `missing` is said if there is none. It may hold a secret.
fn read_url(
    section: &mut Section<'_, '_>,
    outside: Outside<'_>,
    missing: &str,
) -> Option<Given<String>> {
    if !section.has("url") && !section.has("url_env") {
        let problem = format!("{missing}, expected `url` or `url_env`");
        section.refuse(section.origin, problem);
    }
    match (section.string("url"), section.string("url_env")) {
        (Some(_), Some(url_env)) => {
            let problem = "`plugin.url_env` is given beside `url`, expected one of them";
            section.refuse(url_env.origin, problem);
            None
        }
        (None, Some(name)) => outside.variable(section, "url_env", &name, "a URL"),
        (url, None) => url,
    }
}

/// Refuses the keys of other kinds, and says whose they are.
fn refuse_foreign(section: &mut Section<'_, '_>, kind: &Kind) {
    let keys = KINDS.iter().flat_map(|other| other.keys);
    for key in keys.filter(|key| !kind.keys.contains(key)) {
        let Some(origin) = section.take(key) else {
            continue;
        };
        let owners = KINDS.iter().filter(|other| other.keys.contains(key));
        let owners = list(owners.copied(), "and");
        let problem = format!(
            "{} is for kind {owners}, expected a key of `{}`",
            section.full(key),
            kind.name
        );
        section.refuse(origin, problem);
    }
}

/// Such as "`log`, `sql` or `webhook`".
fn list<'k>(kinds: impl Iterator<Item = &'k Kind>, conjunction: &str) -> String {
    let names: Vec<_> = kinds.map(|kind| format!("`{}`", kind.name)).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
        None => String::new(),
    }
}
