//! A program for all events.

use super::*;
use crate::event::{InstanceId, Lifecycle};

/// Answers every line.
const ANSWER: &str = "while IFS= read -r line; do \
                      id=${line#*\\\"event_id\\\":\\\"}; id=${id%%\\\"*}; \
                      printf '{\"ack\":\"%s\"}\\n' \"$id\"; done";

/// Reads one line, and has its event's id in `id`.
const READ: &str = "IFS= read -r line; id=${line#*\\\"event_id\\\":\\\"}; id=${id%%\\\"*}";

fn lifecycle() -> Event {
    let lifecycle = Lifecycle {
        hook: crate::event::Hook::GatewayShutdown,
        reason: None,
        restart_expected_ms: None,
        active_sessions: 0,
    };
    let now = sample::time("2026-11-22T10:00:00Z");
    Event::of_lifecycle(lifecycle, now, InstanceId::generate())
}

#[actix::test]
async fn one_program_answers_all() {
    let folder = Folder::new();
    let plugin = folder.stream(ANSWER);
    for _ in 0..3 {
        deliver(&plugin, starts(256), PATIENCE)
            .await
            .assert_taken(256);
    }
    assert_eq!(folder.groups().len(), 1);
}

#[actix::test]
async fn answers_come_in_any_order_and_between_them_what_is_none() {
    let folder = Folder::new();
    let script = format!(
        "echo ready; {READ}; first=$id; echo '{{\"ack\":\"'$first; {READ}; second=$id; {READ}\n\
         printf '\\377\\033[2J\\n\\n{{}}\\n'; echo '{{\"ack\":\"'${{first%-*}}'-session_end\"}}'\n\
         head -c 100000 /dev/zero | tr '\\0' x; echo\n\
         printf '{{\"reject\":\"%s\",\"message\":\"no such row\"}}\\n' $id\n\
         printf '{{\"ack\":\"%s\"}}\\n{{\"ack\":\"%s\"}}\\n' $second $second; printf '{{\"ack\":'\n\
         sleep 0.2; printf '\"%s\"' $first; sleep 0.2; echo '}}'; sleep 1000"
    );
    let outcome = deliver(&folder.stream(&script), starts(3), PATIENCE).await;
    let expected = [
        Verdict::Acknowledged,
        Verdict::Acknowledged,
        Verdict::Rejected("no such row".into()),
    ];
    assert_eq!(outcome.verdicts, expected);
    assert!(outcome.error.is_none(), "{outcome:?}");
}

#[actix::test]
async fn what_a_program_that_dies_has_answered_counts_and_the_next_delivery_starts_another() {
    let folder = Folder::new();
    let die = format!(
        "test -e died && exec sh -c '{answer}'\n{READ}; touch died; echo '{{\"ack\":\"'$id'\"}}'\n\
         echo out of memory >&2; exit 3",
        answer = ANSWER.replace('\'', "'\\''")
    );
    let plugin = folder.stream(&die);
    let outcome = deliver(&plugin, starts(2), PATIENCE).await;
    assert_eq!(outcome.verdicts, [Verdict::Acknowledged, Verdict::Open]);
    let problem = outcome.assert_down();
    assert_eq!(
        problem,
        "the program exited (exit status: 3): out of memory"
    );
    deliver(&plugin, starts(2), PATIENCE).await.assert_taken(2);
    assert_eq!(folder.groups().len(), 2);
}

#[actix::test]
async fn a_program_that_closes_its_input_or_output_is_down() {
    for (script, problem) in [
        (
            "exec 0<&-; sleep 1000",
            "closed its standard input (signal: 15",
        ),
        (
            "exec 1>&-; sleep 1000",
            "closed its standard output (signal: 15",
        ),
        ("exec 0<&- 1>&-; trap '' TERM; sleep 1000", "(signal: 9"),
    ] {
        let folder = Folder::new();
        let outcome = deliver(&folder.stream(script), starts(256), PATIENCE).await;
        let down = outcome.assert_down();
        assert!(down.contains(problem), "{down}");
        folder.assert_nobody_lives().await;
    }
}

#[actix::test]
async fn a_program_that_never_reads_is_ended_at_the_deadline_and_gone_before_another_starts() {
    let folder = Folder::new();
    let script = "kill -0 $(cat pid) && touch beside; echo $$ > pid\n\
                  trap '' TERM; (sleep 1000) & while :; do sleep 0.1; done";
    let plugin = folder.stream(script);
    for _ in 0..2 {
        let outcome = deliver(&plugin, starts(256), Duration::from_millis(1500)).await;
        outcome.assert_timed_out();
    }
    assert_eq!(folder.groups().len(), 2);
    assert!(
        !folder.path("beside").exists(),
        "two programs ran side by side"
    );
    folder.assert_nobody_lives().await;
}

#[actix::test]
async fn a_program_that_writes_without_end_is_read_and_answers() {
    let folder = Folder::new();
    let script = format!("(while :; do echo noise; echo noise >&2; done) & {ANSWER}");
    let plugin = folder.stream(&script);
    deliver(&plugin, starts(256), PATIENCE)
        .await
        .assert_taken(256);
    deliver(&plugin, starts(256), PATIENCE)
        .await
        .assert_taken(256);
    assert_eq!(folder.groups().len(), 1);
}

#[actix::test]
async fn a_lifecycle_event_that_is_not_answered_does_not_cost_the_program_its_life() {
    let folder = Folder::new();
    let script = format!("{READ}; {ANSWER}");
    let plugin = folder.stream(&script);
    let outcome = deliver(&plugin, vec![lifecycle()], Duration::from_millis(100)).await;
    outcome.assert_timed_out();
    deliver(&plugin, starts(2), PATIENCE).await.assert_taken(2);
    assert_eq!(folder.groups().len(), 1);
}

#[actix::test]
async fn a_program_that_is_let_go_sees_the_end_of_its_input() {
    let folder = Folder::new();
    let script = folder.script(&format!("{ANSWER}; echo over > over"));
    let plugin = CommandPlugin::new(script.with_mode(CommandMode::Stream));
    let delivery = Deliver::new(starts(1), Deadline::after(PATIENCE));
    plugin.deliver(&delivery).await.unwrap();
    drop(plugin);
    folder.assert_nobody_lives().await;
    assert_eq!(folder.read("over"), "over\n");
}

#[actix::test]
async fn nothing_is_left_when_the_thread_of_the_plugin_has_ended() {
    // Whether it goes by the end of its input, by SIGTERM, or by neither.
    for (script, last_word) in [
        (
            "echo ready > ready; cat > /dev/null; echo input > word",
            "input\n",
        ),
        (
            "trap 'echo term > word; exit' TERM; echo ready > ready; while :; do sleep 0.005; done",
            "term\n",
        ),
        (
            "trap '' TERM; (sleep 1000) & echo ready > ready; while :; do sleep 1000; done",
            "",
        ),
    ] {
        // A machine that is busy may not let it have its word in the moment that it has.
        let mut tries = 0;
        loop {
            let folder = Folder::new();
            let settings = folder.script(script).with_mode(CommandMode::Stream);
            end_with_its_thread(&folder, settings, sample::start("sess-A")).await;
            folder.assert_nobody_lives().await;
            if folder.read("word") == last_word {
                break;
            }
            tries += 1;
            assert!(tries < 20, "{script}: {}", folder.read("word"));
        }
    }
}
