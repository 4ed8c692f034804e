//! Reloads: plugins come, go and change while sessions start and end, and nothing is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use session_supervisor::testing::{
    Gate, Harness, Recorder, Recording, gated, recorder, recorder_with,
};
use session_supervisor::{
    Builder, DeliveryPolicy, Durability, EndReason, Error, Event, Hook, Hooks, LiveSettings,
    PluginSpec, Reloaded, SessionSupervisor, Shutdown, SqliteLedger,
};
use tokio::time::{Instant, sleep};

use crate::faulty_ledger::{Call, Fault, FaultyLedger};
use crate::support::{Shorthand, builder, id, in_virtual_time, session};

const SECOND: Duration = Duration::from_secs(1);

/// What a reload reads, for tests to change.
#[derive(Clone)]
struct File(Arc<Mutex<Result<LiveSettings, &'static str>>>);

impl File {
    /// Has a supervisor that can reload begin with these plugins.
    fn with(plugins: Vec<PluginSpec>) -> (Self, Builder) {
        let mut settings = LiveSettings::default();
        settings.plugins = plugins;
        let file = Self(Arc::new(Mutex::new(Ok(settings.clone()))));
        let read = file.clone();
        let read = move || read.0.lock().unwrap().clone().map_err(anyhow::Error::msg);
        (file, builder().settings(settings).on_reload(read))
    }

    fn change(&self, change: impl FnOnce(&mut LiveSettings)) {
        change(self.0.lock().unwrap().as_mut().unwrap());
    }

    fn has(&self, plugins: &[&PluginSpec]) {
        let plugins = plugins.iter().copied().cloned().collect();
        self.change(|settings| settings.plugins = plugins);
    }

    fn is_wrong(&self, why: &'static str) {
        *self.0.lock().unwrap() = Err(why);
    }
}

/// A plugin that is made of `configuration`, what it was told, and how often it was made.
fn configured(name: &str, configuration: u32) -> (PluginSpec, Recording, Arc<AtomicUsize>) {
    let (told, made) = (Recording::new(), Arc::new(AtomicUsize::new(0)));
    let (record, count) = (told.clone(), Arc::clone(&made));
    let plugin = PluginSpec::actor(name, move || {
        count.fetch_add(1, Ordering::Relaxed);
        Recorder::new(record.clone())
    });
    (plugin.with_configuration(configuration), told, made)
}

async fn names(supervisor: &SessionSupervisor) -> Vec<String> {
    let plugins = supervisor.plugins().await.unwrap();
    plugins.iter().map(|it| it.name.to_string()).collect()
}

/// The names in a reload's answer: added, removed, changed, unchanged.
fn parts(reloaded: &Reloaded) -> [String; 4] {
    let parts = [
        &reloaded.added,
        &reloaded.removed,
        &reloaded.changed,
        &reloaded.unchanged,
    ];
    parts.map(|names| names.join(" "))
}

#[test]
fn plugins_come_go_change_or_are_left_alone() {
    in_virtual_time(async |harness| {
        let (stays, stays_told, stays_made) = configured("stays", 1);
        let (goes, goes_told, _) = configured("goes", 1);
        let (changes, changes_told, _) = configured("changes", 1);
        let (file, builder) = File::with(vec![stays.clone(), goes, changes]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        stays_told.wait_for(1).await;
        goes_told.wait_for(1).await;
        changes_told.wait_for(1).await;

        let (comes, comes_told, _) = configured("comes", 1);
        let (changed, changed_told, _) = configured("changes", 2);
        let (same, same_told, _) = configured("stays", 1);
        file.has(&[&comes, &changed, &same]);
        let reloaded = supervisor.reload().await.unwrap();
        assert_eq!(parts(&reloaded), ["comes", "goes", "changes", "stays"]);
        assert_eq!(names(&supervisor).await, ["comes", "changes", "stays"]);

        supervisor.finish("A", EndReason::Completed).await;
        let end = "session_end A completed";
        stays_told.wait_for(2).await;
        changed_told.wait_for(1).await;
        comes_told.wait_for(1).await;
        assert_eq!(stays_told.lines(), ["session_start A", end]);
        assert_eq!(stays_made.load(Ordering::Relaxed), 1);
        assert!(same_told.lines().is_empty());
        assert_eq!(changes_told.lines(), ["session_start A"]);
        assert_eq!(changed_told.lines(), [end]);
        // Who is new hears of the ends of sessions that were active already.
        assert_eq!(comes_told.lines(), [end]);
        assert_eq!(goes_told.lines(), ["session_start A"]);

        let again = supervisor.reload().await.unwrap();
        assert_eq!(parts(&again)[..3], ["", "", ""]);
    });
}

#[test]
fn without_a_configuration_to_compare_a_plugin_counts_as_changed() {
    in_virtual_time(async |harness| {
        let (plugin, _) = recorder("p");
        let (_file, builder) = File::with(vec![plugin]);
        let supervisor = harness.start(builder).await;
        let reloaded = supervisor.reload().await.unwrap();
        assert_eq!(parts(&reloaded), ["", "", "p", ""]);
    });
}

#[test]
fn other_hooks_or_patience_are_a_change() {
    in_virtual_time(async |harness| {
        let (plugin, ..) = configured("p", 1);
        let (file, builder) = File::with(vec![plugin.clone()]);
        let supervisor = harness.start(builder).await;
        let ends_only = plugin
            .clone()
            .with_hooks(Hooks::NONE.with(Hook::SessionEnd));
        file.has(&[&ends_only]);
        assert_eq!(parts(&supervisor.reload().await.unwrap())[2], "p");
        let status = supervisor.plugins().await.unwrap().remove(0);
        assert_eq!(status.hooks, ends_only.hooks());
        let mut policy = DeliveryPolicy::default();
        policy.timeout = SECOND;
        file.has(&[&ends_only.with_policy(policy)]);
        assert_eq!(parts(&supervisor.reload().await.unwrap())[2], "p");
    });
}

#[test]
fn g3_a_plugin_that_changes_finishes_what_is_under_way_and_goes_on_in_order() {
    in_virtual_time(async |harness| {
        let mut side_by_side = DeliveryPolicy::default();
        side_by_side.max_in_flight = 4;
        let (old, old_told, gate) = gated("p", Hook::SessionEnd);
        let old = old.with_policy(side_by_side.clone());
        let (file, builder) = File::with(vec![old]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        supervisor.finish("A", EndReason::Completed).await;
        old_told.wait_for(2).await;
        let (new, new_told) = recorder("p");
        file.has(&[&new.with_policy(side_by_side)]);
        supervisor.reload().await.unwrap();
        supervisor.begin("B").await;
        supervisor.begin("A").await;
        sleep(SECOND).await;
        assert!(new_told.lines().is_empty(), "beside the old one");
        let by_the_old = ["session_start A", "session_end A completed"];
        assert_eq!(old_told.lines(), by_the_old);
        gate.open();
        new_told.wait_for(2).await;
        assert_eq!(old_told.lines(), by_the_old);
        assert_eq!(new_told.lines(), ["session_start B", "session_start A"]);
    });
}

#[test]
fn what_a_plugin_does_not_finish_in_time_comes_again_after_its_change() {
    in_virtual_time(async |harness| {
        let (old, old_told, _gate) = gated("p", Hook::SessionEnd);
        let (file, builder) = File::with(vec![old]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        supervisor.finish("A", EndReason::Completed).await;
        old_told.wait_for(2).await;
        let (new, new_told) = recorder("p");
        file.has(&[&new]);
        supervisor.reload().await.unwrap();
        let began = Instant::now();
        new_told.wait_for(1).await;
        let timeout = DeliveryPolicy::default().timeout;
        assert!(began.elapsed() <= timeout + SECOND);
        assert_eq!(new_told.lines(), ["session_end A completed"]);
        let (old, new) = (old_told.events(), new_told.events());
        assert_eq!(old[1].id(), new[0].id());
    });
}

#[test]
fn a_change_ends_a_backoff() {
    in_virtual_time(async |harness| {
        let (down, tried) = recorder_with("p", |_| async {
            Err(session_supervisor::Down::new(anyhow::anyhow!("wrong address")).into())
        });
        let mut policy = DeliveryPolicy::default();
        (policy.backoff, policy.backoff_max) = (3600 * SECOND, 3600 * SECOND);
        let (file, builder) = File::with(vec![down.with_policy(policy)]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        tried.wait_for(1).await;
        sleep(SECOND).await;
        let (works, told) = recorder("p");
        file.has(&[&works]);
        let began = Instant::now();
        supervisor.reload().await.unwrap();
        told.wait_for(1).await;
        assert!(began.elapsed() < SECOND);
    });
}

#[test]
fn a_plugin_that_hangs_does_not_hold_up_its_removal() {
    in_virtual_time(async |harness| {
        let (hangs, told) = recorder_with("p", |_| std::future::pending());
        let mut policy = DeliveryPolicy::default();
        policy.timeout = 3600 * SECOND;
        let (file, builder) = File::with(vec![hangs.with_policy(policy)]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        file.has(&[]);
        let began = Instant::now();
        supervisor.reload().await.unwrap();
        assert!(began.elapsed() <= 2 * SECOND);
        assert!(names(&supervisor).await.is_empty());
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert_eq!((report.drain.sessions, report.plugins.len()), (1, 0));
    });
}

#[test]
fn settings_that_are_wrong_change_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, told, made) = configured("p", 1);
        let (file, builder) = File::with(vec![plugin.clone()]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        let reload = async || match supervisor.reload().await {
            Err(Error::Settings(problem)) => problem,
            other => panic!("{other:?}"),
        };
        let (other, ..) = configured("other", 1);
        file.has(&[&other, &other]);
        assert!(reload().await.contains("two plugins are named `other`"));
        file.change(|settings| {
            settings.plugins = vec![other];
            settings.cap = Duration::from_millis(1);
        });
        assert!(reload().await.contains("the cap must be at least"));
        file.is_wrong("config.toml:7: `cap` is \"soon\"");
        assert_eq!(reload().await, "config.toml:7: `cap` is \"soon\"");
        assert_eq!(names(&supervisor).await, ["p"]);
        supervisor.finish("A", EndReason::Completed).await;
        told.wait_for(2).await;
        assert_eq!(made.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_ledger_that_fails_changes_nothing() {
    in_virtual_time(async |harness| {
        let (plugin, ..) = configured("p", 1);
        let ledger = FaultyLedger::new();
        let (file, builder) = File::with(vec![plugin.clone()]);
        let supervisor = harness.start(builder.ledger(ledger.clone())).await;
        let (more, ..) = configured("more", 1);
        file.has(&[&more]);
        ledger.breaks(Call::Attach, 0, Fault::Fails);
        let refused = supervisor.reload().await;
        assert!(matches!(refused, Err(Error::Ledger(_))), "{refused:?}");
        assert_eq!(names(&supervisor).await, ["p"]);
        ledger.heal();
        supervisor.reload().await.unwrap();
        assert_eq!(names(&supervisor).await, ["more"]);
    });
}

#[test]
fn where_there_is_nothing_to_read_again_a_reload_says_so() {
    in_virtual_time(async |harness| {
        let supervisor = harness.start(builder()).await;
        let refused = supervisor.reload().await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "there is no configuration to read again"
        );
    });
}

#[test]
fn g4_the_next_shutdown_has_the_new_cap_and_the_new_plugins() {
    in_virtual_time(async |harness| {
        let (plugin, told) = recorder("before");
        let (file, builder) = File::with(vec![plugin]);
        let supervisor = harness.start(builder.restart_expected(SECOND)).await;
        supervisor.begin("A").await;
        told.wait_for(1).await;
        let (hangs, _) = recorder_with("hangs", |_| std::future::pending());
        let (deaf, _) = recorder("deaf");
        let deaf = deaf.with_hooks(Hooks::NONE.with(Hook::SessionStart));
        file.has(&[&hangs, &deaf]);
        file.change(|settings| settings.cap = Duration::from_millis(400));
        supervisor.reload().await.unwrap();
        let began = Instant::now();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(began.elapsed() <= Duration::from_millis(400));
        assert_eq!(report.cap_ms, 400);
        let plugins: Vec<_> = report.plugins.iter().map(|it| &*it.name).collect();
        assert_eq!(plugins, ["hangs"]);
        let drain = &report.drain;
        assert_eq!((drain.sessions, drain.delivered + drain.lost), (1, 1));
    });
}

#[test]
fn limits_of_sessions_change_and_no_session_ends_by_it() {
    in_virtual_time(async |harness| {
        let (file, builder) = File::with(vec![]);
        let supervisor = harness.start(builder).await;
        for id in ["A", "B", "C"] {
            supervisor.begin(id).await;
        }
        file.change(|settings| settings.max_active = 2);
        supervisor.reload().await.unwrap();
        assert_eq!(supervisor.active_ids().await, ["A", "B", "C"]);
        let refused = supervisor.started(session("D")).await;
        assert!(matches!(refused, Err(Error::TooManySessions { max: 2 })));
        file.change(|settings| settings.idle_after = Some(60 * SECOND));
        supervisor.reload().await.unwrap();
        sleep(30 * SECOND).await;
        assert!(supervisor.touch_id("B").await);
        sleep(35 * SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["B"]);
        file.change(|settings| settings.idle_after = None);
        supervisor.reload().await.unwrap();
        sleep(3600 * SECOND).await;
        assert_eq!(supervisor.active_ids().await, ["B"]);
    });
}

#[test]
fn a_plugin_is_not_asked_of_what_was_before_its_time() {
    in_virtual_time(async |harness| {
        let (file, builder) = File::with(vec![]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        let (plugin, ..) = configured("p", 1);
        file.has(&[&plugin]);
        supervisor.reload().await.unwrap();
        let states = async |text: &str| {
            let record = supervisor.find(&id(text)).await.unwrap().unwrap();
            supervisor.delivery_states(&record).await.unwrap().len()
        };
        assert_eq!(states("A").await, 0);
        supervisor.begin("B").await;
        assert_eq!(states("B").await, 1);
        supervisor.finish("A", EndReason::Completed).await;
        assert_eq!(states("A").await, 1);
    });
}

#[test]
fn reloads_at_once_come_one_after_the_other() {
    in_virtual_time(async |harness| {
        let (old, told, gate) = gated("p", Hook::SessionEnd);
        let (file, builder) = File::with(vec![old]);
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        supervisor.finish("A", EndReason::Completed).await;
        told.wait_for(2).await;
        let (other, ..) = configured("other", 1);
        file.has(&[&other]);
        let first = supervisor.clone();
        let first = actix_rt::spawn(async move { first.reload().await });
        tokio::task::yield_now().await;
        let second = supervisor.reload().await.unwrap();
        let first = first.await.unwrap().unwrap();
        assert_eq!(parts(&first), ["other", "p", "", ""]);
        assert_eq!(parts(&second), ["", "", "", "other"]);
        gate.open();
    });
}

#[test]
fn a_reload_that_nobody_waits_for_any_more_is_finished_before_the_next() {
    in_virtual_time(async |harness| {
        let (old, ..) = configured("old", 1);
        let ledger = FaultyLedger::new();
        let (file, builder) = File::with(vec![old]);
        let supervisor = harness.start(builder.ledger(ledger.clone())).await;
        ledger.breaks(Call::Attach, 0, Fault::Slow(10_000));
        let (a, ..) = configured("a", 1);
        let (b, b_told, _) = configured("b", 1);
        file.has(&[&a, &b]);
        file.change(|settings| settings.max_active = 1);
        let given_up = tokio::time::timeout(SECOND, supervisor.reload()).await;
        assert!(given_up.is_err());
        ledger.heal();
        file.has(&[&b]);
        let reloaded = supervisor.reload().await.unwrap();
        assert_eq!(parts(&reloaded), ["", "a", "", "b"]);
        assert_eq!(names(&supervisor).await, ["b"]);
        supervisor.begin("A").await;
        b_told.wait_for(1).await;
        let refused = supervisor.started(session("B")).await;
        assert!(matches!(refused, Err(Error::TooManySessions { max: 1 })));
    });
}

#[test]
fn a_plugin_whose_lane_waits_for_the_ledger_is_removed_all_the_same() {
    in_virtual_time(async |harness| {
        let (goes, told, _) = configured("goes", 1);
        let ledger = FaultyLedger::new();
        let (file, builder) = File::with(vec![goes.clone()]);
        let supervisor = harness.start(builder.ledger(ledger.clone())).await;
        ledger.breaks(Call::Advance, 0, Fault::Hangs);
        supervisor.begin("A").await;
        told.wait_for(1).await;
        sleep(SECOND).await;
        file.has(&[]);
        let began = Instant::now();
        supervisor.reload().await.unwrap();
        assert!(began.elapsed() <= 7 * SECOND, "{:?}", began.elapsed());
        ledger.heal();
        // The ledger in memory forgets who was removed: it is new when it comes back.
        supervisor.begin("B").await;
        file.has(&[&goes]);
        supervisor.reload().await.unwrap();
        supervisor.begin("C").await;
        told.wait_for(2).await;
        assert_eq!(told.lines(), ["session_start A", "session_start C"]);
    });
}

#[test]
fn g6_a_plugin_that_comes_back_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ledger.db");
    Harness::run(async |harness| {
        let ledger = SqliteLedger::open(path, Durability::Process).unwrap();
        let (stays, stays_told, _) = configured("stays", 1);
        let (goes, goes_told, _) = configured("goes", 1);
        let (file, builder) = File::with(vec![stays.clone(), goes.clone()]);
        let supervisor = harness.start(builder.ledger(ledger)).await;
        supervisor.begin("A").await;
        goes_told.wait_for(1).await;
        file.has(&[&stays]);
        supervisor.reload().await.unwrap();
        supervisor.finish("A", EndReason::Completed).await;
        supervisor.begin("B").await;
        stays_told.wait_for(3).await;
        assert_eq!(goes_told.lines(), ["session_start A"]);
        file.has(&[&stays, &goes]);
        let reloaded = supervisor.reload().await.unwrap();
        assert_eq!(parts(&reloaded), ["goes", "", "", "stays"]);
        goes_told.wait_for(3).await;
        let expected = [
            "session_start A",
            "session_end A completed",
            "session_start B",
        ];
        assert_eq!(goes_told.lines(), expected);
        assert_eq!(stays_told.lines(), expected);
    });
}

/// Sessions that start and end while it reloads again and again.
#[test]
fn g6_nothing_is_lost_or_told_twice_whatever_is_reloaded_beside_traffic() {
    const SESSIONS: usize = 400;
    in_virtual_time(async |harness| {
        let (stays, stays_told, _) = configured("stays", 0);
        let changes_told = Recording::new();
        let changing = |configuration: u32| {
            let told = changes_told.clone();
            let call = move |event: Event| {
                let told = told.clone();
                async move {
                    sleep(Duration::from_millis(3)).await;
                    told.record(&event);
                    Ok(())
                }
            };
            PluginSpec::per_session("changes", call).with_configuration(configuration)
        };
        let (file, builder) = File::with(vec![stays.clone(), changing(0)]);
        let supervisor = harness.start(builder).await;
        let (gate, reloading) = (Gate::new(), supervisor.clone());
        let done = gate.clone();
        let (comes, ..) = configured("comes", 0);
        let traffic = actix_rt::spawn({
            let supervisor = supervisor.clone();
            async move {
                for n in 0..SESSIONS {
                    let id = format!("s{n}");
                    supervisor.begin(&id).await;
                    sleep(Duration::from_millis(2)).await;
                    supervisor.finish(&id, EndReason::Completed).await;
                }
                done.open();
            }
        });
        let mut reloads = 0;
        loop {
            tokio::select! {
                () = gate.pass() => break,
                () = sleep(Duration::from_millis(7)) => {}
            }
            reloads += 1;
            let changed = changing(reloads);
            match reloads % 2 {
                0 => file.has(&[&changed, &stays]),
                _ => file.has(&[&stays, &comes, &changed]),
            }
            reloading.reload().await.unwrap();
        }
        traffic.await.unwrap();
        assert!(reloads > 20, "{reloads}");
        stays_told.wait_for(2 * SESSIONS).await;
        changes_told.wait_for(2 * SESSIONS).await;
        for told in [stays_told, changes_told] {
            let lines = told.lines();
            assert_eq!(lines.len(), 2 * SESSIONS);
            for n in 0..SESSIONS {
                let of_session = [
                    format!("session_start s{n}"),
                    format!("session_end s{n} completed"),
                ];
                let places = of_session.map(|wanted| lines.iter().position(|it| *it == wanted));
                assert!(
                    places[0].is_some() && places[0] < places[1],
                    "s{n}: {places:?}"
                );
            }
        }
    });
}
