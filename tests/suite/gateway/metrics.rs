//! The metrics, as Prometheus scrapes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;
use session_supervisor::{
    Access, DeliveryPolicy, Down, Event, PluginSpec, SessionSupervisor, Shutdown, StateDir,
};

use super::client::TestGateway;

/// The names that must be there, without those of the process, with their types and labels.
const NAMES: &[(&str, &str, &[&str])] = &[
    ("build_info", "gauge", &["version"]),
    ("dead_letters", "gauge", &["plugin"]),
    ("hung_threads", "gauge", &["plugin"]),
    (
        "deliveries_total",
        "counter",
        &["outcome", "plugin", "type"],
    ),
    ("delivery_duration_seconds", "histogram", &["le", "plugin"]),
    ("draining", "gauge", &[]),
    ("last_shutdown_duration_seconds", "gauge", &[]),
    ("last_shutdown_owed_events", "gauge", &[]),
    ("last_shutdown_timed_out", "gauge", &[]),
    ("last_shutdown_timestamp_seconds", "gauge", &[]),
    ("holders", "gauge", &[]),
    ("holders_lost_total", "counter", &[]),
    ("ledger_commit_duration_seconds", "histogram", &["le"]),
    ("ledger_errors_total", "counter", &[]),
    ("oldest_owed_age_seconds", "gauge", &["plugin"]),
    ("owed_events", "gauge", &["plugin"]),
    ("plugin_state", "gauge", &["plugin", "state"]),
    ("sessions_active", "gauge", &[]),
    ("sessions_ended_total", "counter", &["reason"]),
    ("sessions_recovered_total", "counter", &["reason"]),
    ("sessions_refused_total", "counter", &["cause"]),
    ("sessions_started_total", "counter", &[]),
];

/// A scrape, parsed.
#[derive(Debug, Default)]
struct Scrape {
    /// The types by name.
    types: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    /// The values by name and labels, as they are written.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(gateway: &TestGateway) -> Self {
        let answer = gateway.get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(content_type));
        Self::parse(&answer.body)
    }

    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} twice");
            } else if let Some(line) = line.strip_prefix("# HELP ") {
                let (name, help) = line.split_once(' ').unwrap();
                assert!(!help.is_empty(), "{name}");
                scrape.helped.insert(name.to_owned());
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let before = scrape
                    .samples
                    .insert(sample.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{sample} twice");
            }
        }
        scrape
    }

    /// The value of a sample of ours.
    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        let name = format!("session_supervisor_{sample}");
        let value = self.samples.get(&name);
        *value.unwrap_or_else(|| panic!("no {name} in {:#?}", self.samples))
    }

    /// The value of `deliveries_total`.
    #[track_caller]
    fn deliveries(&self, plugin: &str, hook: &str, outcome: &str) -> f64 {
        let labels = format!("plugin=\"{plugin}\",type=\"{hook}\",outcome=\"{outcome}\"");
        self.value(&format!("deliveries_total{{{labels}}}"))
    }

    /// The labels of all samples of a family.
    fn labels(&self, name: &str) -> Vec<BTreeSet<&str>> {
        let of_family = self.samples.keys().filter_map(|sample| {
            let rest = sample.strip_prefix(name)?;
            let suffixes = ["_bucket", "_sum", "_count"];
            let rest = suffixes.iter().find_map(|it| rest.strip_prefix(it));
            let rest = rest.or_else(|| sample.strip_prefix(name))?;
            (rest.is_empty() || rest.starts_with('{')).then_some(rest)
        });
        let names = of_family.map(|labels| {
            let labels = labels.trim_matches(['{', '}']).split("\",");
            labels
                .filter_map(|label| Some(label.split_once('=')?.0))
                .collect()
        });
        names.collect()
    }
}

fn impatient(plugin: PluginSpec) -> PluginSpec {
    let mut policy = DeliveryPolicy::default();
    // One that hangs is not waited for; a panic that prints where it happened takes its time.
    let hangs = plugin.name() == "hangs";
    policy.timeout = Duration::from_millis(if hangs { 50 } else { 10_000 });
    policy.backoff = Duration::from_secs(60);
    policy.backoff_max = Duration::from_secs(60);
    policy.max_attempts = 1;
    plugin.with_policy(policy)
}

fn per_session<R>(name: &str, answer: fn(Event) -> R) -> PluginSpec
where
    R: Future<Output = anyhow::Result<()>> + 'static,
{
    impatient(PluginSpec::per_session(name, answer))
}

/// Scrapes until what is found `is_so`.
#[track_caller]
fn scrape_until(gateway: &TestGateway, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let scrape = Scrape::of(gateway);
        if is_so(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < until, "{scrape:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A gateway that has stopped before, and has a plugin.
async fn with_a_stop_before(state_dir: &StateDir) -> TestGateway {
    let builder = || {
        let plugin = per_session("audit", |_| async { Ok(()) });
        let builder = SessionSupervisor::builder().state_dir(state_dir.clone());
        builder.plugin(plugin)
    };
    let before = builder().start().await.unwrap();
    before.shutdown(Shutdown::now()).await.unwrap();
    TestGateway::start_with(builder(), Access::loopback()).await
}

#[actix_web::test]
async fn every_metric_has_its_name_type_labels_and_description() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = StateDir::open(dir.path()).unwrap();
    let gateway = with_a_stop_before(&state_dir).await;
    let scrape = Scrape::of(&gateway);
    for (name, kind, labels) in NAMES {
        let name = format!("session_supervisor_{name}");
        let found = scrape.types.get(&name).map(String::as_str);
        assert_eq!(found, Some(*kind), "{name}");
        assert!(scrape.helped.contains(&name), "{name}");
        let expected: BTreeSet<_> = labels.iter().copied().collect();
        let found = scrape.labels(&name);
        assert!(!found.is_empty(), "no sample of {name}");
        for found in found {
            let without_le: BTreeSet<_> =
                expected.iter().copied().filter(|it| *it != "le").collect();
            assert!(
                found == expected || found == without_le,
                "{name}: {found:?}"
            );
        }
    }
    let ours = scrape.types.keys();
    let ours = ours.filter_map(|name| name.strip_prefix("session_supervisor_"));
    let known = NAMES.iter().map(|(name, ..)| *name);
    let unknown: Vec<_> = ours
        .filter(|name| !known.clone().any(|it| it == *name))
        .collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn what_the_system_knows_of_the_process_has_the_usual_names() {
    let gateway = TestGateway::start().await;
    let scrape = Scrape::of(&gateway);
    let value = |name: &str| scrape.samples[name];
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((1e6..1e12).contains(&value("process_resident_memory_bytes")));
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!((3.0..1e6).contains(&value("process_open_fds")));
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_threads") >= 2.0);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    assert!((now - 86_400.0..=now + 2.0).contains(&value("process_start_time_seconds")));
}

#[actix_web::test]
async fn g9_counts_are_right_after_rejections_time_outs_and_panics() {
    let plugins = [
        per_session("healthy", |_| async { Ok(()) }),
        per_session("rejects", |_| async { anyhow::bail!("no such customer") }),
        per_session("down", |_| async {
            Err(Down::new(anyhow::anyhow!("connection refused")).into())
        }),
        per_session("hangs", |_| std::future::pending()),
        per_session("panics", |_| async { panic!("as the test wants it") }),
    ];
    let builder = SessionSupervisor::builder().max_active(1);
    let builder = plugins
        .into_iter()
        .fold(builder, session_supervisor::Builder::plugin);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    gateway.start_session("A");
    let again = gateway.post("/v1/sessions", &json!({"id": "A"}));
    assert_eq!(again.status, 200);
    let refused = gateway.post("/v1/sessions", &json!({"id": "B"}));
    assert_eq!(refused.status, 429);
    let is_settled = |scrape: &Scrape| {
        scrape.deliveries("healthy", "session_start", "ok") == 1.0
            && scrape.deliveries("rejects", "session_start", "error") == 1.0
            && scrape.deliveries("down", "session_start", "error") == 1.0
            && scrape.deliveries("hangs", "session_start", "timeout") == 1.0
            && scrape.deliveries("panics", "session_start", "panic") == 1.0
    };
    let scrape = scrape_until(&gateway, is_settled);
    for (plugin, owed, dead, state) in [
        ("healthy", 0.0, 0.0, "healthy"),
        ("rejects", 0.0, 1.0, "healthy"),
        ("down", 1.0, 0.0, "retrying"),
        ("hangs", 1.0, 0.0, "retrying"),
        ("panics", 1.0, 0.0, "retrying"),
    ] {
        let of = |name: &str| scrape.value(&format!("{name}{{plugin=\"{plugin}\"}}"));
        assert_eq!(
            (of("owed_events"), of("dead_letters")),
            (owed, dead),
            "{plugin}"
        );
        assert_eq!(of("delivery_duration_seconds_count"), 1.0, "{plugin}");
        let labels = format!("plugin=\"{plugin}\",state=\"{state}\"");
        assert_eq!(scrape.value(&format!("plugin_state{{{labels}}}")), 1.0);
        assert_eq!(scrape.deliveries(plugin, "session_end", "ok"), 0.0);
    }
    assert_eq!(scrape.value("sessions_started_total"), 1.0);
    assert_eq!(scrape.value("sessions_active"), 1.0);
    let refused = "sessions_refused_total{cause=\"too_many_sessions\"}";
    assert_eq!(scrape.value(refused), 1.0);
    assert_eq!(scrape.value("draining"), 0.0);

    gateway.post("/v1/sessions/A/end", &json!({"reason": "idle"}));
    let told = |scrape: &Scrape| scrape.deliveries("healthy", "session_end", "ok") == 1.0;
    let scrape = scrape_until(&gateway, told);
    assert_eq!(scrape.value("sessions_active"), 0.0);
    assert_eq!(scrape.value("sessions_ended_total{reason=\"idle\"}"), 1.0);
    assert_eq!(scrape.value("sessions_ended_total{reason=\"crash\"}"), 0.0);
    assert_eq!(scrape.value("ledger_commit_duration_seconds_count"), 3.0);
}

#[actix_web::test]
async fn what_is_owed_has_an_age() {
    let down = per_session("down", |_| async {
        Err(Down::new(anyhow::anyhow!("connection refused")).into())
    });
    let builder = SessionSupervisor::builder().plugin(down);
    let gateway = TestGateway::start_with(builder, Access::loopback()).await;
    let age = "oldest_owed_age_seconds{plugin=\"down\"}";
    assert_eq!(Scrape::of(&gateway).value(age), 0.0);
    let plugins = || gateway.get("/v1/plugins").json()["plugins"][0].clone();
    assert_eq!(plugins()["oldest_owed_age_ms"], json!(null));
    gateway.start_session("A");
    let scrape = scrape_until(&gateway, |scrape| scrape.value(age) > 0.1);
    assert!(scrape.value(age) < 20.0);
    assert!(plugins()["oldest_owed_age_ms"].as_u64().unwrap() >= 100);
}

#[actix_web::test]
async fn the_stop_before_is_told_of_and_not_the_one_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = StateDir::open(dir.path()).unwrap();
    let first = TestGateway::start_with(
        SessionSupervisor::builder().state_dir(state_dir.clone()),
        Access::loopback(),
    )
    .await;
    let scrape = Scrape::of(&first);
    let of_last = |name: &&String| name.contains("last_shutdown");
    assert_eq!(scrape.samples.keys().find(of_last), None);

    let gateway = with_a_stop_before(&state_dir).await;
    let before = Scrape::of(&gateway);
    assert_eq!(before.value("last_shutdown_timed_out"), 0.0);
    let at = before.value("last_shutdown_timestamp_seconds");
    let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    assert!((now - 60.0..=now).contains(&at), "{at}");
    let report = gateway.get("/v1/reports/last").json();
    let millis = report["duration_ms"].as_f64().unwrap();
    assert_eq!(
        before.value("last_shutdown_duration_seconds"),
        millis / 1000.0
    );

    // The supervisor of this test is gone after its stop, and so is what a scrape asks.
    let hangs = per_session("hangs", |_| std::future::pending());
    let builder = SessionSupervisor::builder().state_dir(state_dir.clone());
    let gateway = TestGateway::start_with(builder.plugin(hangs), Access::loopback()).await;
    gateway.start_session("A");
    gateway.post("/v1/shutdown", &json!({}));
    let during = scrape_until(&gateway, |scrape| scrape.value("draining") == 1.0);
    assert!(during.value("last_shutdown_timestamp_seconds") >= at);
}
