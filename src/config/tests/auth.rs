//! Tokens: where their secrets come from, and what they open.

use std::net::SocketAddr;

use super::*;
use crate::gateway::{Scope, Secret};
use crate::session::HolderId;

const OPS: &str = "operator-0123456789";

fn token(name: &str, scope: Scope, secret: &str) -> TokenConfig {
    TokenConfig {
        name: name.into(),
        scope,
        secret: Secret::new(secret).unwrap(),
    }
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let world = World::new()
        .env("DASHBOARD", "dashboard-0123456789")
        .env("WORKER", "worker-0123456789");
    write_secret(&world, "ops.token", &format!("{OPS}\n"));
    let text = r#"
        [[auth.token]]
        name = "ops"
        token_file = "ops.token"
        scope = "operator"

        [[auth.token]]
        name = "dashboard"
        token_env = "DASHBOARD"
        scope = "read"

        [[auth.token]]
        name = "worker"
        token_env = "WORKER"
        scope = "holder"
        holder = "worker-1"
    "#;
    let config = world.read(text).unwrap();
    let worker = Scope::Holder(HolderId::new("worker-1").unwrap());
    let expected = [
        token("ops", Scope::Operator, OPS),
        token("dashboard", Scope::Read, "dashboard-0123456789"),
        token("worker", worker, "worker-0123456789"),
    ];
    assert_eq!(config.tokens, expected);
    assert_eq!(config.warnings, [""; 0]);
    assert!(!format!("{config:?}").contains("0123456789"));
}

#[test]
fn one_newline_at_the_end_of_a_file_is_no_part_of_the_secret() {
    let world = World::new();
    let text = "[[auth.token]]\nname = \"ops\"\nscope = \"read\"\ntoken_file = \"t\"\n";
    for end in ["", "\n", "\r\n"] {
        write_secret(&world, "t", &format!("{OPS}{end}"));
        let tokens = world.read(text).unwrap().tokens;
        assert_eq!(tokens, [token("ops", Scope::Read, OPS)], "{end:?}");
    }
    for end in ["\n\n", " \n", "\r"] {
        write_secret(&world, "t", &format!("{OPS}{end}"));
        let refusals = world.refusals(text);
        assert!(
            refusals[0].starts_with("c.toml:4: `auth.token.token_file`: the secret has "),
            "{refusals:?}"
        );
        assert!(!refusals[0].contains(OPS), "{refusals:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_that_every_user_may_open_is_warned_of() {
    let world = World::new();
    write_secret(&world, "t", OPS);
    let text = "[[auth.token]]\nname = \"ops\"\nscope = \"read\"\ntoken_file = \"t\"\n";
    for (mode, is_exposed) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
        set_mode(&world, "t", mode);
        let config = world.read(text).unwrap();
        let path = world.path("t");
        let expected = format!(
            "c.toml:4: `auth.token.token_file`: every user of this machine may open {}, expected mode 0600",
            path.display()
        );
        let expected = is_exposed.then_some(expected);
        assert_eq!(config.warnings, Vec::from_iter(expected), "{mode:o}");
    }
}

#[test]
fn with_a_token_other_machines_may_be_listened_to() {
    let token = "[[auth.token]]\nname = \"ops\"\nscope = \"read\"\ntoken_env = \"TOKEN\"\n";
    let text = format!("listen = \"0.0.0.0:7467\"\n{token}");
    let mut world = World::new().env("TOKEN", OPS);
    let any: SocketAddr = "0.0.0.0:7467".parse().unwrap();
    assert_eq!(world.read(&text).unwrap().listen, [any]);

    let other = "192.0.2.1:80".parse().unwrap();
    world.flags.listen = Some(other);
    assert_eq!(world.read(token).unwrap().listen, [other]);

    // Of a token that is refused, that is all that is said.
    let refusals = world.env("TOKEN", "").refusals(&text);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].starts_with("c.toml:5: "), "{refusals:?}");
}
