//! The kind `webhook`: a URL, and what is sent there.

use super::{Answer, Kind, PluginKind, Read, read_hooks, read_url};
use crate::config::document::{Given, Section};
use crate::config::outside::Outside;
use crate::plugin::{WebhookBody, WebhookSettings};
use crate::session::InvalidField;

pub(super) const KIND: Kind = Kind {
    name: "webhook",
    keys: &[
        "hooks",
        "url",
        "url_env",
        "secret_env",
        "secret_file",
        "body",
        "headers_file",
        "ca_file",
    ],
    required: &["url", "url_env"],
    max_batch: 256,
    max_in_flight: Some(4),
    read,
};

fn read(
    Read {
        section,
        outside,
        policy,
    }: Read<'_, '_, '_>,
) -> Answer {
    let hooks = read_hooks(section);
    let settings = read_target(section, outside);
    // Where the URL was refused, the rest is still looked at.
    let is_usable = settings.is_some();
    let mut settings = settings.unwrap_or_else(|| {
        WebhookSettings::new("http://localhost").expect("a URL of http without a user")
    });
    settings = read_secrets(section, outside, settings);
    settings = read_headers(section, outside, settings);
    settings = read_authorities(section, outside, settings);
    let body = read_body(section);
    if body == WebhookBody::Event {
        // Each request has a deadline of its own, and they go side by side as deliveries do.
        policy.max_batch = 1;
    }
    let settings = settings.with_body(body);
    is_usable.then_some((hooks, PluginKind::Webhook(settings)))
}

fn read_target(section: &mut Section<'_, '_>, outside: Outside<'_>) -> Option<WebhookSettings> {
    let url = read_url(section, outside, "a plugin of kind `webhook` has no URL")?;
    // The URL itself is in no message: it may hold a secret.
    match WebhookSettings::new(&url.value) {
        Ok(settings) => {
            if settings.is_exposed() {
                let warning =
                    "the webhook's URL leaves this machine unencrypted, expected https://";
                section.warn(url.origin, warning);
            }
            Some(settings)
        }
        Err(error) => {
            let problem = format!("the webhook's URL is refused: {}", error.problem);
            section.refuse(url.origin, problem);
            None
        }
    }
}

fn read_secrets(
    section: &mut Section<'_, '_>,
    outside: Outside<'_>,
    settings: WebhookSettings,
) -> WebhookSettings {
    if !section.has("secret_env") && !section.has("secret_file") {
        let warning = "a plugin of kind `webhook` has no secret, so that nobody can tell who sends its \
                       requests, expected `secret_env` or `secret_file`";
        section.warn(section.origin, warning);
    }
    let (key, secrets) = match (section.string("secret_env"), section.string("secret_file")) {
        (Some(_), Some(file)) => {
            let problem = "`plugin.secret_file` is given beside `secret_env`, expected one of them";
            section.refuse(file.origin, problem);
            return settings;
        }
        (Some(name), None) => (
            "secret_env",
            outside.variable(section, "secret_env", &name, "a secret"),
        ),
        (None, Some(file)) => (
            "secret_file",
            outside.secret_file(section, "secret_file", &file, "a secret"),
        ),
        (None, None) => return settings,
    };
    take(section, key, secrets, settings, |settings, secrets| {
        settings.with_secrets(&secrets)
    })
}

fn read_headers(
    section: &mut Section<'_, '_>,
    outside: Outside<'_>,
    settings: WebhookSettings,
) -> WebhookSettings {
    let file = section.string("headers_file");
    let lines = file.and_then(|file| {
        outside.secret_file(section, "headers_file", &file, "lines of `Name: value`")
    });
    take(
        section,
        "headers_file",
        lines,
        settings,
        |settings, lines| settings.with_headers(&lines),
    )
}

fn read_authorities(
    section: &mut Section<'_, '_>,
    outside: Outside<'_>,
    settings: WebhookSettings,
) -> WebhookSettings {
    let file = section.string("ca_file");
    let pem = file.and_then(|file| outside.file(section, "ca_file", &file, "certificates"));
    take(section, "ca_file", pem, settings, |settings, pem| {
        settings.with_authorities(&pem)
    })
}

/// Settings with what `key` gave. As they were, if that was refused.
fn take<T>(
    section: &Section<'_, '_>,
    key: &str,
    given: Option<Given<T>>,
    settings: WebhookSettings,
    with: impl FnOnce(WebhookSettings, T) -> Result<WebhookSettings, InvalidField>,
) -> WebhookSettings {
    let Some(given) = given else {
        return settings;
    };
    with(settings.clone(), given.value).unwrap_or_else(|error| {
        let problem = format!("{} is refused: {}", section.full(key), error.problem);
        section.refuse(given.origin, problem);
        settings
    })
}

fn read_body(section: &mut Section<'_, '_>) -> WebhookBody {
    let Some(given) = section.string("body") else {
        return WebhookBody::default();
    };
    match given.value.as_str() {
        "event" => WebhookBody::Event,
        "batch" => WebhookBody::Batch,
        other => {
            let problem = format!("`plugin.body` is {other:?}, expected `event` or `batch`");
            section.refuse(given.origin, problem);
            WebhookBody::default()
        }
    }
}
