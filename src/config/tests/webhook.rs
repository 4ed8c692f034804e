//! Webhooks: what they are sent with, and what is warned of.

use super::*;
use crate::plugin::{WebhookBody, WebhookSettings};

const URL: &str = "https://example.org/hooks";

fn webhook(keys: &str) -> String {
    format!("[[plugin]]\nname = \"crm\"\nkind = \"webhook\"\n{keys}\n")
}

#[test]
fn every_key_of_a_webhook_is_read() {
    let world = World::new().env("URL", URL);
    write_secret(&world, "secrets", &format!("{SIGNING} {SIGNING}\n"));
    write_secret(&world, "headers", "Authorization: Bearer s3cret\n");
    let keys = "hooks = [\"session_end\"]\nurl_env = \"URL\"\nsecret_file = \"secrets\"\n\
                body = \"batch\"\nheaders_file = \"headers\"";
    let config = world.read(&webhook(keys)).unwrap();
    let settings = WebhookSettings::new(URL).unwrap();
    let settings = settings.with_secrets(&format!("{SIGNING} {SIGNING}"));
    let settings = settings.unwrap().with_body(WebhookBody::Batch);
    let settings = settings
        .with_headers("authorization: Bearer s3cret")
        .unwrap();
    let plugin = &config.plugins[0];
    assert_eq!(plugin.kind, PluginKind::Webhook(settings));
    assert_eq!(plugin.hooks, Hooks::NONE.with(Hook::SessionEnd));
    assert_eq!(
        (plugin.policy.max_batch, plugin.policy.max_in_flight),
        (256, 4)
    );
    assert_eq!(config.warnings, [""; 0]);
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains(&SIGNING[6..]),
        "{shown}"
    );
}

#[test]
fn events_are_sent_one_by_one_unless_in_batches() {
    let world = World::new();
    let limits = |keys: &str| {
        let text = webhook(&format!(
            "url = \"{URL}\"\nmax_in_flight = 8\nmax_batch = 10\n{keys}"
        ));
        let policy = world.read(&text).unwrap().plugins.remove(0).policy;
        (policy.max_batch, policy.max_in_flight)
    };
    assert_eq!(limits(""), (1, 8));
    assert_eq!(limits("body = \"event\""), (1, 8));
    assert_eq!(limits("body = \"batch\""), (10, 8));
}

#[test]
fn what_is_sent_unsigned_or_unencrypted_is_warned_of() {
    let world = World::new().env("SIGNING", SIGNING);
    let warnings = |url: &str, secret: &str| {
        let text = webhook(&format!("url = \"{url}\"\n{secret}"));
        world.read(&text).unwrap().warnings
    };
    let signed = "secret_env = \"SIGNING\"";
    assert_eq!(warnings(URL, signed), [""; 0]);
    assert_eq!(warnings("http://127.0.0.1:8080", signed), [""; 0]);
    assert_eq!(
        warnings("http://example.org", signed),
        ["c.toml:4: the webhook's URL leaves this machine unencrypted, expected https://"]
    );
    assert_eq!(
        warnings(URL, ""),
        [
            "c.toml:1: a plugin of kind `webhook` has no secret, so that nobody can tell who sends its requests, expected `secret_env` or `secret_file`"
        ]
    );
}

#[test]
#[cfg(unix)]
fn secrets_and_headers_that_every_user_may_read_are_warned_of() {
    let world = World::new();
    write_secret(&world, "secrets", SIGNING);
    write_secret(&world, "headers", "X-Team: a");
    for name in ["secrets", "headers"] {
        set_mode(&world, name, 0o644);
    }
    let keys = format!("url = \"{URL}\"\nsecret_file = \"secrets\"\nheaders_file = \"headers\"");
    let warnings = world.read(&webhook(&keys)).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, key) in warnings.iter().zip(["secret_file", "headers_file"]) {
        let start = format!("`plugin.{key}`: every user of this machine may open ");
        assert!(warning.contains(&start), "{warning}");
    }
}

#[test]
fn a_webhook_that_is_configured_otherwise_is_another() {
    let world = World::new();
    let spec = |secret: &str| {
        write_secret(&world, "secret", secret);
        let text = webhook(&format!("url = \"{URL}\"\nsecret_file = \"secret\""));
        let plugin = world.read(&text).unwrap().plugins.remove(0);
        plugin.to_spec(Durability::Power)
    };
    let other = SIGNING.replace("Mf", "fM");
    assert!(spec(SIGNING).is_same(&spec(SIGNING)));
    assert!(!spec(SIGNING).is_same(&spec(&other)));
}
