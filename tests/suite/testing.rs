//! The test kit: that its harness finds what is left behind, and that its plugins misbehave as their
//! names say.

use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use actix::prelude::*;
use session_supervisor::testing::{Harness, Misbehaviour, gated, in_time, recorder};
use session_supervisor::{
    Deliver, DeliveryPolicy, EndReason, Hook, LiveSettings, PluginSpec, SessionSupervisor,
    Shutdown, ShutdownReport,
};
use tokio::time::{Instant, sleep};

use crate::support::{Shorthand, builder, id, in_virtual_time};

const SECOND: Duration = Duration::from_secs(1);

/// What a test that panics says.
fn panic_message(test: impl FnOnce()) -> Option<String> {
    let panicked = catch_unwind(AssertUnwindSafe(test)).err()?;
    let text = panicked.downcast_ref::<String>().cloned();
    text.or_else(|| panicked.downcast_ref::<&str>().map(ToString::to_string))
}

/// A plugin whose actor lives on for `life`, whoever has its address.
fn lives_on(name: &str, life: Duration) -> PluginSpec {
    struct LivesOn(Duration);

    impl Actor for LivesOn {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            ctx.run_later(self.0, |_, _| {});
        }
    }

    impl Handler<Deliver> for LivesOn {
        type Result = anyhow::Result<()>;

        fn handle(&mut self, _: Deliver, _: &mut Context<Self>) -> Self::Result {
            Ok(())
        }
    }

    PluginSpec::actor(name, move || LivesOn(life))
}

#[test]
fn a_handle_that_is_kept_is_a_leak_of_the_three_actors() {
    let mut kept = None;
    let message = panic_message(|| {
        in_virtual_time(async |harness| {
            let (plugin, _) = recorder("p");
            let supervisor = harness.start(builder().plugin(plugin)).await;
            kept = Some(supervisor);
        });
    });
    let message = message.expect("the harness finds it");
    for actor in ["registry", "bus", "coordinator"] {
        let named = format!("the {actor} of supervisor 1");
        assert!(message.contains(&named), "{message}");
    }
    assert!(!message.contains("plugin"), "{message}");
}

#[test]
fn a_plugins_actor_that_lives_on_is_a_leak_unless_it_may() {
    let hour = 3600 * SECOND;
    let run = |leak: Option<&'static str>, life| {
        panic_message(|| {
            in_virtual_time(async |harness| {
                if let Some(plugin) = leak {
                    harness.allow_leak(plugin);
                }
                let plugins = builder().plugin(lives_on("p", life));
                let supervisor = harness.start(plugins).await;
                supervisor.begin("A").await;
            });
        })
    };
    let message = run(None, hour).expect("the harness finds it");
    assert!(
        message.contains("the plugin `p` of supervisor 1"),
        "{message}"
    );
    assert!(run(Some("other"), hour).is_some());
    assert_eq!(run(Some("p"), hour), None);
    assert_eq!(run(None, SECOND), None);
}

#[test]
fn an_actor_that_a_reload_brought_is_minded_too() {
    let message = panic_message(|| {
        in_virtual_time(async |harness| {
            let builder = builder().on_reload(|| {
                let mut settings = LiveSettings::default();
                settings.plugins = vec![lives_on("late", 3600 * SECOND)];
                Ok(settings)
            });
            let supervisor = harness.start(builder).await;
            supervisor.reload().await.unwrap();
            supervisor.begin("A").await;
            sleep(SECOND).await;
        });
    });
    let message = message.expect("the harness finds it");
    assert!(message.contains("the plugin `late`"), "{message}");
}

#[test]
fn a_harness_that_is_not_finished_and_a_test_without_an_end_fail() {
    let forgotten = || {
        System::new().block_on(async {
            let harness = Harness::new();
            let _supervisor = harness.start(builder()).await;
        });
    };
    let message = panic_message(forgotten);
    assert_eq!(message.as_deref(), Some("the harness is not finished"));

    let endless = || in_virtual_time(async |_| std::future::pending().await);
    let message = panic_message(endless);
    assert_eq!(message.as_deref(), Some("this takes for ever"));
}

/// After a stop nothing may hold a supervisor: neither its timers, nor what waits for signals.
#[test]
fn a_supervisor_is_gone_after_its_stop_whatever_was_set() {
    in_virtual_time(async |harness| {
        let settings = || {
            let mut settings = LiveSettings::default();
            settings.cap = 600 * SECOND;
            settings.idle_after = Some(60 * SECOND);
            settings.max_age = Some(60 * SECOND);
            settings
        };
        let builder = builder().settings(settings()).handle_signals();
        let builder = builder.on_reload(move || Ok(settings()));
        let supervisor = harness.start(builder).await;
        supervisor.begin("A").await;
        supervisor.reload().await.unwrap();
        let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
        assert!(report.duration_ms < 1000);
    });
}

#[test]
fn a_harness_minds_several_supervisors_one_after_the_other() {
    in_virtual_time(async |harness| {
        for _ in 0..2 {
            let (plugin, told) = recorder("p");
            let supervisor = harness.start(builder().plugin(plugin)).await;
            supervisor.begin("A").await;
            supervisor.shutdown(Shutdown::now()).await.unwrap();
            assert_eq!(told.ends(), ["A shutdown"]);
        }
    });
}

#[test]
fn a_gate_lets_pass_while_it_is_open() {
    in_virtual_time(async |harness| {
        let (plugin, told, gate) = gated("p", Hook::SessionEnd);
        let supervisor = harness.start(builder().plugin(plugin)).await;
        let owed = async || supervisor.plugins().await.unwrap()[0].owed;
        for (id, is_open) in [("A", false), ("B", true)] {
            supervisor.begin(id).await;
            supervisor.finish(id, EndReason::Completed).await;
            sleep(SECOND).await;
            assert_eq!(owed().await, u64::from(!is_open));
            gate.open();
            sleep(SECOND).await;
            assert_eq!(owed().await, 0);
        }
        gate.close();
        supervisor.begin("C").await;
        supervisor.finish("C", EndReason::Completed).await;
        told.wait_for(6).await;
        sleep(SECOND).await;
        assert_eq!(owed().await, 1);
        gate.open();
    });
}

#[test]
fn the_names_of_misbehaviours_are_read_as_they_are_written() {
    for &misbehaviour in Misbehaviour::ALL {
        let name = misbehaviour.to_string();
        assert!(name.chars().all(|c| c == '-' || c.is_ascii_lowercase()));
        assert_eq!(name.parse(), Ok(misbehaviour));
    }
    let error = "well".parse::<Misbehaviour>().unwrap_err();
    assert!(error.contains("slow, rejects, hangs"), "{error}");
}

fn hasty() -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    policy.timeout = Duration::from_millis(300);
    policy
}

/// The report of a stop with two healthy plugins beside one that misbehaves, and what each of the two
/// was told. Until then the one has been told of nothing but a start.
async fn stopped_beside(
    supervisor: SessionSupervisor,
    misbehaviour: Misbehaviour,
) -> std::sync::Arc<ShutdownReport> {
    supervisor.begin("A").await;
    let takes_starts = !matches!(misbehaviour, Misbehaviour::Dead | Misbehaviour::MailboxFull);
    if takes_starts {
        in_time(async {
            while supervisor.plugins().await.unwrap()[0].owed > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    let report = supervisor.shutdown(Shutdown::now()).await.unwrap();
    let [bad, good] = &report.plugins[..] else {
        panic!("two plugins: {report:?}");
    };
    assert_eq!((good.delivered, good.lost), (1, 0), "{misbehaviour}");
    if misbehaviour == Misbehaviour::Slow {
        assert_eq!((bad.delivered, bad.lost), (1, 0));
        assert!(bad.duration_ms >= 200, "{}", bad.duration_ms);
    } else {
        assert_eq!((bad.delivered, bad.lost), (0, 1), "{misbehaviour}");
        assert_eq!(bad.unfinished, [id("A")], "{misbehaviour}");
    }
    report
}

#[test]
fn g5_on_the_tests_own_thread_each_misbehaviour_harms_its_own_plugin_alone() {
    let expected = [
        (Misbehaviour::Slow, None),
        (Misbehaviour::Rejects, Some("rejected, as always")),
        (Misbehaviour::Hangs, Some("timed out")),
        (
            Misbehaviour::PanicsInHandler,
            Some("the plugin's actor died"),
        ),
        (
            Misbehaviour::PanicsInFuture,
            Some("the plugin's actor died"),
        ),
        (Misbehaviour::Dead, Some("the plugin's actor died")),
        (Misbehaviour::MailboxFull, Some("timed out")),
    ];
    for (misbehaviour, error) in expected {
        in_virtual_time(async |harness| {
            if misbehaviour == Misbehaviour::MailboxFull {
                harness.allow_leak("bad");
            }
            let (good, told) = recorder("good");
            let bad = misbehaviour.plugin("bad").with_policy(hasty());
            let supervisor = harness.start(builder().plugin(bad).plugin(good)).await;
            let began = Instant::now();
            let report = stopped_beside(supervisor, misbehaviour).await;
            assert!(began.elapsed() <= 3 * SECOND, "{misbehaviour}");
            assert_eq!(told.lines(), ["session_start A", "session_end A shutdown"]);
            let seen = report.plugins[0].last_error.as_deref();
            assert_eq!(seen, error, "{misbehaviour}");
        });
    }
}

/// A stop on threads of the supervisor's own, with a misbehaving plugin and a healthy one.
async fn stop_on_own_threads(misbehaviour: Misbehaviour) {
    let (good, told) = recorder("good");
    let bad = misbehaviour.plugin("bad").with_policy(hasty());
    let builder = SessionSupervisor::builder().cap(SECOND);
    let supervisor = builder.plugin(bad).plugin(good).start().await.unwrap();
    let report = stopped_beside(supervisor, misbehaviour).await;
    assert_eq!(told.ends(), ["A shutdown"]);
    let seen = report.plugins[0].last_error.as_deref();
    assert_eq!(seen, Some("timed out"), "{misbehaviour}");
}

/// In real time, and with threads that stay behind blocked until the process of the tests ends.
#[tokio::test]
async fn g5_on_threads_of_its_own_each_misbehaviour_harms_its_own_plugin_alone() {
    for misbehaviour in [
        Misbehaviour::BlocksThread,
        Misbehaviour::HangsInSpawnBlocking,
        Misbehaviour::BlocksMain,
    ] {
        stop_on_own_threads(misbehaviour).await;
    }
}

/// What the child misbehaves like.
const CHILD: &str = "TESTING_CHILD";

/// What the child exits with when all was as it should be.
const WELL: i32 = 42;

#[test]
#[ignore = "a process that other tests start"]
fn child() {
    if let Ok(name) = std::env::var(CHILD) {
        let misbehaviour = name.parse().unwrap();
        System::new().block_on(stop_on_own_threads(misbehaviour));
        // Printing its panics may take longer than the stop.
        if misbehaviour == Misbehaviour::PanicsWhileUnwinding {
            std::thread::sleep(120 * SECOND);
        }
        // Returning would print.
        std::process::exit(WELL);
    }
}

/// How a process ends in which a plugin misbehaves.
async fn child_with(misbehaviour: Misbehaviour) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "testing::child", "--ignored", "--nocapture"])
        .env(CHILD, misbehaviour.as_str())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = std::time::Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > 60 * SECOND {
            child.kill().unwrap();
            panic!("the process hangs: {misbehaviour}");
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn g4_a_plugin_that_holds_the_standard_output_does_not_hold_the_stop() {
    let status = child_with(Misbehaviour::HoldsStdout).await;
    assert_eq!(status.code(), Some(WELL), "{status}");
}

#[tokio::test]
async fn a_plugin_that_panics_while_it_unwinds_aborts_the_process() {
    let status = child_with(Misbehaviour::PanicsWhileUnwinding).await;
    assert_eq!(status.signal(), Some(nix::libc::SIGABRT), "{status}");
}
