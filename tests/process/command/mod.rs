//! Plugins of kind `command`: real programs under the real binary.

mod examples;
mod load;
mod misbehaviour;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gateway::{Gateway, json_lines};

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `is_so` of what `GET /v1/plugins` says of the plugin `name`.
#[track_caller]
fn wait_for_plugin(gateway: &Gateway, name: &str, is_so: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, listed) = gateway.get("/v1/plugins");
        let plugins = listed["plugins"].as_array().unwrap();
        let plugin = plugins.iter().find(|plugin| plugin["name"] == name);
        let plugin = plugin.unwrap();
        if is_so(plugin) {
            return;
        }
        assert!(Instant::now() < until, "{plugin}");
        sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn wait_until_nothing_is_owed(gateway: &Gateway, name: &str) {
    wait_for_plugin(gateway, name, |plugin| plugin["owed"] == 0);
}

/// The ids of the events in a file of JSON lines.
fn event_ids(path: &Path) -> BTreeSet<String> {
    let lines = json_lines(path).into_iter();
    let ids = lines.map(|line| line["event_id"].as_str().unwrap().to_owned());
    ids.collect()
}

/// The lines of a text file; none if it is missing.
fn lines(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A string as TOML has it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// Asserts that no process lives in those groups once what was killed has had the time to die.
#[track_caller]
fn assert_nobody_lives(path: &Path) {
    let until = Instant::now() + Duration::from_secs(2);
    while living_in_groups(path) > 0 {
        let living = living_in_groups(path);
        assert!(Instant::now() < until, "{living} processes are left");
        sleep(Duration::from_millis(5));
    }
}

/// How many processes live in the process groups whose numbers are in the file at `path`.
fn living_in_groups(path: &Path) -> usize {
    let groups = lines(path);
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // Behind the name, which may hold anything: state, parent, group.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, group) = (fields.next()?, fields.nth(1)?);
        // Orphans that were killed, where the first process of the machine reaps none.
        let is_zombie = matches!(state, "Z" | "X");
        (!is_zombie).then(|| group.to_owned())
    });
    stats.filter(|group| groups.contains(group)).count()
}
