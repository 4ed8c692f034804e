//! Budgets that nest.

use super::*;

#[test]
fn budgets_that_do_not_fit_are_refused_with_the_value_to_blame() {
    let world = World::new();
    let cases = [
        ("[shutdown]\ncap = \"9s\"", 2),
        ("[shutdown]\nteardown = \"8s\"", 2),
        ("[shutdown]\n\nkill_after = \"3999ms\"", 3),
        // One of several given is to blame.
        (
            "[shutdown]\ncap = \"2s\"\nteardown = \"8s\"\nkill_after = \"10s\"",
            3,
        ),
        (
            "[shutdown]\ncap = \"2s\"\nteardown = \"1s\"\nkill_after = \"3s\"",
            4,
        ),
        ("[shutdown]\nkill_after = \"12s\"\ncap = \"11s\"", 3),
        // None of them alone is.
        ("[shutdown]\nteardown = \"20s\"\ncap = \"20s\"", 3),
    ];
    for (text, line) in cases {
        let refusals = world.refusals(text);
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(
            refusals[0].starts_with(&format!("c.toml:{line}: ")),
            "{text}\n{refusals:?}"
        );
    }
    assert_eq!(
        world.refusals("[shutdown]\ncap = \"8500ms\""),
        [
            "c.toml:2: `cap` 8s 500ms + `teardown` 1s + 1s of slack make 10s 500ms, expected at most `kill_after`, which is 10s"
        ]
    );
    for exact in ["cap = \"8s\"", "teardown = \"7s\"", "kill_after = \"4s\""] {
        world.read(&format!("[shutdown]\n{exact}")).unwrap();
    }
}

#[test]
fn the_lifecycle_timeout_is_at_most_a_quarter_of_the_cap() {
    let world = World::new();
    let timeout = |text: &str| world.read(text).unwrap().shutdown.lifecycle_timeout;
    let ms = Duration::from_millis;

    assert_eq!(timeout(""), ms(250));
    assert_eq!(timeout("[shutdown]\ncap = \"8s\""), ms(250));
    assert_eq!(timeout("[shutdown]\ncap = \"100ms\""), ms(25));
    assert_eq!(
        timeout("[shutdown]\nlifecycle_timeout = \"500ms\""),
        ms(500)
    );
    assert_eq!(
        world.refusals("[shutdown]\nlifecycle_timeout = \"501ms\""),
        [
            "c.toml:2: `shutdown.lifecycle_timeout` is 501ms, expected at most 500ms, a quarter of `cap`"
        ]
    );
    assert_eq!(
        world.refusals("[shutdown]\ncap = \"400ms\"\nlifecycle_timeout = \"250ms\""),
        [
            "c.toml:3: `shutdown.lifecycle_timeout` is 250ms, expected at most 100ms, a quarter of `cap`"
        ]
    );
}
