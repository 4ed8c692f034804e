//! `plugins`: who is told, how they are, and what they are owed.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Target, encode};
use super::failure::Failure;
use super::output::{Format, Output};
use super::table::{Table, age, age_since, clean, count, exact, or_nothing};

/// Lists and tests plugins, and helps those that are behind
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Plugins {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the plugins: how they are and what they are owed
    List,
    /// Sends a plugin a start and an end of a session that does not exist
    ///
    /// Both are marked `synthetic`, and their session is called so: a plugin that does not look at the
    /// mark takes it for a real one, as an SQL statement without `:synthetic` does. Exits with 1 if the
    /// plugin does not take them.
    Test(Plugin),
    /// Lists a plugin's dead letters: the events that it rejected for good
    Dead(Plugin),
    /// Puts a plugin's dead letters back into its lane
    ///
    /// As many as there is room for: where some are left, say it again when the others are
    /// delivered.
    Redeliver(Plugin),
    /// Tries a plugin at once that waits for its next attempt
    Resume(Plugin),
    /// Has the gateway read its configuration again; one that is wrong changes nothing
    Reload,
}

#[derive(Debug, clap::Args)]
struct Plugin {
    /// The plugin's name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

#[derive(Debug, Deserialize)]
struct PluginList {
    plugins: Vec<PluginView>,
}

#[derive(Debug, Deserialize)]
struct PluginView {
    name: String,
    state: String,
    #[serde(default)]
    hooks: Vec<String>,
    owed: u64,
    oldest_owed_age_ms: Option<u64>,
    dead: u64,
    last_error: Option<String>,
    latency_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Tested {
    outcome: String,
    error: Option<String>,
    duration_ms: u64,
}

#[derive(Debug, Deserialize)]
struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DeadLetter {
    seq: u64,
    r#type: String,
    session_id: String,
    reason: Option<String>,
    timestamp: Timestamp,
    attempts: u64,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Redelivered {
    redelivered: u64,
    #[serde(default)]
    left: u64,
}

#[derive(Debug, Deserialize)]
struct Reloaded {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    unchanged: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

impl Plugins {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (client, output) = (self.target.client()?, self.format.format);
        let post = |plugin: &Plugin, what| client.post(&plugin.path(what), &json!({}));
        match self.command {
            Command::List => client
                .get("/v1/plugins")?
                .print(output, |list: &PluginList| plugins(&list.plugins)),
            Command::Test(plugin) => plugin.test(&client, output),
            Command::Dead(plugin) => client
                .get(&plugin.path("dead-letters"))?
                .print(output, |list| dead_letters(list, Timestamp::now())),
            Command::Redeliver(plugin) => {
                post(&plugin, "redeliver")?.print(output, |back| redelivered(back, &plugin.name))
            }
            Command::Resume(plugin) => post(&plugin, "resume")?
                .print(output, |plugin| plugins(std::slice::from_ref(plugin))),
            Command::Reload => client
                .post("/v1/plugins/reload", &json!({}))?
                .print(output, reloaded),
        }
    }
}

impl Plugin {
    fn path(&self, what: &str) -> String {
        format!("/v1/plugins/{}/{what}", encode(&self.name))
    }

    /// Which of a start and an end it is told, in words.
    fn hears(&self, client: &Client) -> &'static str {
        let list = client.get("/v1/plugins").and_then(|list| list.read());
        let plugins = list.map_or(Vec::new(), |list: PluginList| list.plugins);
        let plugin = plugins.into_iter().find(|plugin| plugin.name == self.name);
        plugin.map_or(BOTH, |plugin| heard(&plugin.hooks))
    }

    fn test(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let answer = client.post(&self.path("test"), &json!({}))?;
        let outcome: Tested = answer.read()?;
        let heard = match output {
            Output::Json => BOTH,
            Output::Table => self.hears(client),
        };
        let verdict = tested(&outcome, &self.name, heard);
        if outcome.outcome == "ok" {
            return answer.print(output, |_: &Tested| verdict);
        }
        if output == Output::Json {
            answer.print(output, |_: &Tested| String::new())?;
        }
        Err(Failure::Failed(verdict))
    }
}

fn plugins(plugins: &[PluginView]) -> String {
    if plugins.is_empty() {
        return "no plugin is configured: starts and ends are told to nobody".into();
    }
    let mut table = Table::new(&[
        "NAME",
        "STATE",
        ">OWED",
        ">OLDEST",
        ">DEAD",
        ">LATENCY",
        "LAST ERROR",
    ]);
    for plugin in plugins {
        let oldest = plugin.oldest_owed_age_ms.map(Duration::from_millis);
        let latency = plugin.latency_ms.map(|millis| format!("{millis}ms"));
        table.row([
            plugin.name.as_str().into(),
            plugin.state.as_str().into(),
            plugin.owed.to_string().into(),
            oldest.map(age).unwrap_or_default().into(),
            plugin.dead.to_string().into(),
            latency.unwrap_or_default().into(),
            or_nothing(plugin.last_error.as_deref()),
        ]);
    }
    let dead = plugins.iter().filter(|plugin| plugin.dead > 0);
    let hints = dead.map(|plugin| {
        let (name, letters) = (clean(&plugin.name), count(plugin.dead, "dead letter"));
        format!("\n{letters} of {name}: `session-supervisor plugins dead {name}` says why")
    });
    let quarantined = plugins
        .iter()
        .filter(|plugin| plugin.state == "quarantined");
    let tries = quarantined.map(|plugin| {
        let name = clean(&plugin.name);
        format!("\n{name} is tried seldom now: `session-supervisor plugins resume {name}` does so at once")
    });
    format!("{table}{}", hints.chain(tries).collect::<String>())
}

const BOTH: &str = "a start and an end";

fn heard(hooks: &[String]) -> &'static str {
    let hears = |hook: &str| hooks.iter().any(|heard| heard == hook);
    match (hears("session_start"), hears("session_end")) {
        (true, true) => BOTH,
        (true, false) => "a start",
        (false, true) => "an end",
        (false, false) => "nothing, since it hears of no session,",
    }
}

fn tested(tested: &Tested, name: &str, what: &str) -> String {
    let took = match tested.duration_ms {
        0 => "<1ms".into(),
        millis => exact(Duration::from_millis(millis)),
    };
    let name = clean(name);
    match (tested.outcome.as_str(), &tested.error) {
        ("ok", _) => format!("{name} took {what} in {took}"),
        (outcome, None) => format!(
            "{name} did not take {what}: {} after {took}",
            clean(outcome)
        ),
        (outcome, Some(error)) => format!(
            "{name} did not take {what}: {} after {took}: {}",
            clean(outcome),
            clean(error)
        ),
    }
}

fn dead_letters(list: &DeadLetters, now: Timestamp) -> String {
    if list.dead_letters.is_empty() {
        return "no dead letters".into();
    }
    let mut table = Table::new(&[
        ">SEQ",
        "EVENT",
        "SESSION",
        "REASON",
        ">AGE",
        ">ATTEMPTS",
        "ERROR",
    ]);
    for letter in &list.dead_letters {
        table.row([
            letter.seq.to_string().into(),
            letter.r#type.as_str().into(),
            letter.session_id.as_str().into(),
            or_nothing(letter.reason.as_deref()),
            age_since(letter.timestamp, now).into(),
            letter.attempts.to_string().into(),
            or_nothing(letter.error.as_deref()),
        ]);
    }
    let mut text = table.to_string();
    if list.next_cursor.is_some() {
        text.push_str("\nthese are the oldest, and there are more");
    }
    text
}

fn redelivered(back: &Redelivered, name: &str) -> String {
    let name = clean(name);
    let told = match (back.redelivered, back.left) {
        (0, 0) => return format!("{name} has no dead letters"),
        (1, _) => format!("1 dead letter is delivered to {name} again"),
        (n, _) => format!("{n} dead letters are delivered to {name} again"),
    };
    match back.left {
        0 => told,
        left => format!("{told}, {left} are left: say it again when these are through"),
    }
}

fn reloaded(reloaded: &Reloaded) -> String {
    let parts = [
        ("added", &reloaded.added),
        ("removed", &reloaded.removed),
        ("changed", &reloaded.changed),
    ];
    let mut lines: Vec<_> = parts
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", clean(&names.join(", "))))
        .collect();
    let unchanged = count(reloaded.unchanged.len() as u64, "plugin");
    lines.push(format!("unchanged: {unchanged}"));
    let warnings = reloaded.warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {}", clean(warning))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    fn read<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn plugins_show_what_they_are_owed() {
        let list: PluginList = read(json!({"plugins": [
            {"name": "audit", "state": "healthy", "hooks": ["session_start"], "owed": 0,
             "oldest_owed_age_ms": null, "dead": 0, "last_error": null, "latency_ms": 0.412},
            {"name": "crm", "state": "retrying", "hooks": [], "owed": 1204,
             "oldest_owed_age_ms": 192_000, "dead": 3, "last_error": "503\nbusy",
             "latency_ms": null},
        ]}));
        assert_snapshot!(plugins(&list.plugins), @r"
        NAME   STATE     OWED  OLDEST  DEAD  LATENCY  LAST ERROR
        audit  healthy      0       -     0  0.412ms  -
        crm    retrying  1204  3m 12s     3        -  503 busy
        3 dead letters of crm: `session-supervisor plugins dead crm` says why
        ");
        assert_snapshot!(plugins(&[]), @"no plugin is configured: starts and ends are told to nobody");
    }

    #[test]
    fn a_test_says_how_it_went() {
        let ok = read(json!({"outcome": "ok", "error": null, "duration_ms": 12}));
        assert_snapshot!(tested(&ok, "audit", BOTH), @"audit took a start and an end in 12ms");
        let quick = read(json!({"outcome": "ok", "error": null, "duration_ms": 0}));
        let end = heard(&["session_end".into()]);
        assert_snapshot!(tested(&quick, "audit", end), @"audit took an end in <1ms");
        let late = read(json!({"outcome": "timeout", "error": null, "duration_ms": 5000}));
        assert_snapshot!(tested(&late, "audit", BOTH), @"audit did not take a start and an end: timeout after 5s");
        let failed = read(json!({"outcome": "error", "error": "no such table", "duration_ms": 1}));
        assert_snapshot!(tested(&failed, "db", "a start"), @"db did not take a start: error after 1ms: no such table");
    }

    #[test]
    fn dead_letters_say_why() {
        let list = read(json!({"dead_letters": [
            {"event_id": "e", "seq": 4711, "type": "session_end", "session_id": "sess-A",
             "incarnation": "i", "reason": "idle", "timestamp": "2026-11-22T10:00:00.000Z",
             "attempts": 5, "error": "no such column: reason"},
            {"event_id": "e", "seq": 9, "type": "session_start", "session_id": "sess-B",
             "incarnation": "i", "reason": null, "timestamp": "2026-11-22T10:59:58.000Z",
             "attempts": 15, "error": "constraint failed"},
        ]}));
        let now = "2026-11-22T11:00:00Z".parse().unwrap();
        assert_snapshot!(dead_letters(&list, now), @r"
         SEQ  EVENT          SESSION  REASON  AGE  ATTEMPTS  ERROR
        4711  session_end    sess-A   idle     1h         5  no such column: reason
           9  session_start  sess-B   -        2s        15  constraint failed
        ");
        assert_snapshot!(dead_letters(&read(json!({"dead_letters": []})), now), @"no dead letters");
    }

    #[test]
    fn redelivery_and_reload_are_counted() {
        let told = |n: u64| redelivered(&read(json!({"redelivered": n})), "crm");
        assert_eq!(told(0), "crm has no dead letters");
        assert_eq!(told(1), "1 dead letter is delivered to crm again");
        assert_eq!(told(2), "2 dead letters are delivered to crm again");
        let some = redelivered(&read(json!({"redelivered": 10_000, "left": 7})), "crm");
        let expected = "10000 dead letters are delivered to crm again, 7 are left: say it again \
                        when these are through";
        assert_eq!(some, expected);
        let outcome = json!({"added": ["a", "b"], "removed": [], "changed": ["c"],
            "unchanged": ["d"]});
        assert_snapshot!(reloaded(&read(outcome)), @r"
        added: a, b
        changed: c
        unchanged: 1 plugin
        ");
    }
}
