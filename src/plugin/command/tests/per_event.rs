//! A program per event.

use super::*;
use crate::session::{Metadata, NewSession, SessionId};

#[actix::test]
async fn a_program_is_given_the_event_and_nothing_else_but_what_is_listed() {
    let folder = Folder::new();
    let script = "cat > input; cat /proc/$$/environ > environment; pwd > directory; \
                  printf '%s|' \"$0\" \"$@\" > arguments";
    let command = ["/bin/sh", "-c", script, "a b", "$HOME", "*"];
    let settings = CommandSettings::new(command).unwrap();
    let settings = settings
        .passing("PATH")
        .unwrap()
        .passing("NOBODY_SETS_THIS")
        .unwrap();
    let settings = settings.with_variable("STAGE", "prod").unwrap();
    let plugin = start(settings.in_directory(folder.0.path()));
    let event = sample::start("sess-A");
    deliver(&plugin, vec![event.clone()], PATIENCE)
        .await
        .assert_taken(1);

    let input: Value = serde_json::from_str(&folder.read("input")).unwrap();
    assert_eq!(input["event_id"], event.id().to_string());
    assert_eq!(input["session"]["id"], "sess-A");
    assert!(input["remaining_ms"].as_u64().unwrap() > 0);
    let path = std::env::var("PATH").unwrap();
    let environment = folder.read("environment");
    let mut variables: Vec<_> = environment.split_terminator('\0').collect();
    variables.sort_unstable();
    assert_eq!(variables, [&format!("PATH={path}"), "STAGE=prod"]);
    let directory = fs::canonicalize(folder.0.path()).unwrap();
    assert_eq!(
        folder.read("directory").trim_end(),
        directory.to_str().unwrap()
    );
    assert_eq!(folder.read("arguments"), "a b|$HOME|*|");
}

#[actix::test]
async fn the_exit_code_is_the_answer() {
    let folder = Folder::new();
    let run = async |script: &str| deliver(&folder.per_event(script), starts(1), PATIENCE).await;

    run("exit 0").await.assert_taken(1);
    let rejected = run("echo no such row >&2; printf 'really\\033[2J' >&2; exit 3").await;
    assert_eq!(
        rejected.rejection(),
        "exited with 3: no such row | really\u{fffd}[2J"
    );
    assert!(rejected.error.is_none(), "{rejected:?}");
    assert_eq!(run("exit 1").await.rejection(), "exited with 1");
    assert_eq!(run("kill -9 $$").await.rejection(), "was ended by signal 9");
    let down = run("echo the disk is full >&2; exit 75").await;
    assert_eq!(
        down.assert_down(),
        "exited with 75, try later: the disk is full"
    );
    folder.assert_nobody_lives().await;
}

#[actix::test]
async fn a_program_that_can_not_be_started_is_down_until_it_can() {
    let folder = Folder::new();
    let path = folder.path("program");
    let settings = CommandSettings::new([&path]).unwrap();
    let settings = settings.in_directory(folder.path("work"));
    let plugin = start(settings);
    let try_it = || deliver(&plugin, starts(1), PATIENCE);

    assert!(
        try_it()
            .await
            .assert_down()
            .contains("program` is not there")
    );
    fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
    assert!(try_it().await.assert_down().contains("is not executable"));
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(try_it().await.assert_down().contains("work`: No such file"));
    fs::create_dir(folder.path("work")).unwrap();
    try_it().await.assert_taken(1);
    // Not for a shell to guess what it is.
    fs::write(&path, "exit 0\n").unwrap();
    assert!(
        try_it()
            .await
            .assert_down()
            .contains("can't start `program`: Exec format error")
    );

    let by_name = |settings: CommandSettings| deliver_one(start(settings));
    let name = || CommandSettings::new(["program"]).unwrap();
    let problem = by_name(name()).await.assert_down();
    assert!(
        problem.contains("PATH, which the program is not given"),
        "{problem}"
    );
    let problem = by_name(name().with_variable("PATH", "/nowhere:").unwrap()).await;
    assert!(
        problem
            .assert_down()
            .contains("in no directory of the PATH")
    );
    fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
    let found = name().with_variable("PATH", format!("/nowhere:{}", folder.0.path().display()));
    by_name(found.unwrap()).await.assert_taken(1);
}

async fn deliver_one(plugin: Recipient<Deliver>) -> Outcome {
    deliver(&plugin, starts(1), PATIENCE).await
}

#[actix::test]
async fn events_of_one_delivery_come_one_by_one_and_none_overtakes_a_rejected_one() {
    let folder = Folder::new();
    let script = "input=$(cat); echo \"$input\" >> told; case $input in *poison*session_end*) ;; \
                  *poison*) exit 1;; esac";
    let poison = sample::start_of(NewSession::new(SessionId::new("poison").unwrap()));
    let other = sample::start("other");
    let events = vec![
        poison.clone(),
        other.clone(),
        sample::end_of(&poison),
        sample::end_of(&other),
    ];
    let outcome = deliver(&folder.per_event(script), events, PATIENCE).await;
    let problem = outcome
        .error
        .expect("the end of the rejected start was told");
    assert!(!problem.is::<crate::plugin::Down>(), "{problem:#}");
    let expected = [
        Verdict::Rejected("exited with 1".into()),
        Verdict::Acknowledged,
        Verdict::Open,
        Verdict::Acknowledged,
    ];
    assert_eq!(outcome.verdicts, expected);
    assert_eq!(folder.read("told").lines().count(), 3);
}

#[actix::test]
async fn megabytes_of_output_and_an_input_that_is_not_read_hold_nothing_up() {
    let folder = Folder::new();
    let noise = "dd if=/dev/zero bs=65536 count=320";
    let script = format!(
        "{noise} 2>/dev/null; {noise} 2>/dev/null >&2; {noise} 2>/dev/null & exec 0<&-; {noise} 2>/dev/null; wait; echo done >&2; exit 4"
    );
    let mut new = NewSession::new(SessionId::new("large").unwrap());
    new.metadata = Metadata::from_iter([("large", "x".repeat(200_000).into())]);
    let event = sample::start_of(new);
    let outcome = deliver(&folder.per_event(&script), vec![event], PATIENCE).await;
    let rejection = outcome.rejection();
    assert!(rejection.starts_with("exited with 4: "), "{rejection}");
    assert!(rejection.ends_with("done"), "{rejection}");
    assert!(rejection.len() < 8 * 1024, "{}", rejection.len());
}

#[actix::test]
async fn a_process_that_its_program_leaves_behind_holds_no_delivery_up_and_is_killed() {
    let folder = Folder::new();
    let script = "trap '' TERM; sleep 1000 & exit 0";
    let outcome = deliver(&folder.per_event(script), starts(1), PATIENCE).await;
    outcome.assert_taken(1);
    assert!(outcome.took < Duration::from_secs(5), "{outcome:?}");
    folder.assert_nobody_lives().await;
}

#[actix::test]
async fn a_process_that_leaves_the_group_holds_no_delivery_up() {
    let folder = Folder::new();
    // It outlives this test for a moment.
    let script = "setsid sleep 10 & exit 0";
    let outcome = deliver(&folder.per_event(script), starts(1), PATIENCE).await;
    outcome.assert_taken(1);
    assert!(outcome.took < Duration::from_secs(5), "{outcome:?}");
}

#[actix::test]
async fn a_program_that_is_late_is_terminated_and_then_killed_with_its_group() {
    let folder = Folder::new();
    let timeout = Duration::from_millis(300);
    let polite = "trap 'echo ended > trapped; exit 0' TERM; sleep 1000 & wait";
    let outcome = deliver(&folder.per_event(polite), starts(1), timeout).await;
    outcome.assert_timed_out();
    folder.assert_nobody_lives().await;
    assert_eq!(folder.read("trapped"), "ended\n");

    let stubborn = "trap '' TERM; (sleep 1000) & sleep 1000";
    let outcome = deliver(&folder.per_event(stubborn), starts(1), timeout).await;
    outcome.assert_timed_out();
    folder.assert_nobody_lives().await;
}

#[actix::test]
async fn nothing_is_left_when_the_thread_of_the_plugin_has_ended() {
    let folder = Folder::new();
    let script = folder.script("trap '' TERM; (sleep 1000) & echo ready > ready; sleep 1000");
    end_with_its_thread(&folder, script, sample::start("sess-A")).await;
    folder.assert_nobody_lives().await;
}
