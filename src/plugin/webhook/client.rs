//! The client: one request, and as much of its answer as is needed.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, redirect};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::timeout;

use super::answer::judge;
use super::message::Message;
use super::settings::WebhookSettings;
use super::signature::sign;
use crate::plugin::Down;

/// A connection that was not used for so long is closed: some servers close theirs after 5 s, and a
/// request that meets that would have to be made again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A delivery is over before that; this bounds what it leaves behind.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of an answer's body is read. If that is all, the connection is used again.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// How long the body of an answer is waited for, once its status is there.
const ANSWER_PATIENCE: Duration = Duration::from_millis(250);

/// No secret is shorter; shorter words of a request are left in what is quoted of its answer.
const SECRET_BYTES: usize = 8;

/// What is sent unless a file says otherwise.
const AGENT: &str = concat!("session-supervisor/", env!("CARGO_PKG_VERSION"));

/// Makes the client for `settings`. It has connections of its own, and tasks on the runtime that it is
/// used on.
pub(super) fn client(settings: &WebhookSettings) -> anyhow::Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls(settings)?)
        // What the environment says is for people's own programs.
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .referer(false)
        .build()
        .context("no HTTP client can be made")
}

fn tls(settings: &WebhookSettings) -> anyhow::Result<ClientConfig> {
    // Its own provider: the one of the process is the embedding program's.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("no TLS client can be made")?;
    let is_needed = settings.url.scheme() == "https";
    let config = if is_needed && settings.authorities.is_empty() {
        config
            .with_platform_verifier()
            .context("the system's certificate authorities can't be read")?
    } else {
        let mut authorities = RootCertStore::empty();
        for certificate in &settings.authorities {
            authorities.add(certificate.clone())?;
        }
        config.with_root_certificates(authorities)
    };
    Ok(config.with_no_client_auth())
}

/// Sends `message`. An error that is neither [`Down`] nor [`Disabled`](crate::plugin::Disabled) rejects
/// what it tells.
pub(super) async fn post(
    client: &Client,
    settings: &WebhookSettings,
    message: Message,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let timestamp = now.as_second();
    let mut request = client
        .post(settings.url.clone())
        .header(USER_AGENT, AGENT)
        .headers(settings.headers.clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", timestamp);
    if settings.is_signed() {
        let signature = sign(&settings.keys, &message.id, timestamp, &message.body);
        request = request.header("webhook-signature", signature);
    }
    let mut response = request
        .body(message.body)
        .send()
        .await
        .map_err(|error| Down::new(no_answer(&error)))?;
    if response.status().is_success() {
        // What follows changes nothing. It is read so that the connection can be used again.
        actix_rt::spawn(async move { beginning(&mut response).await });
        return Ok(());
    }
    let body = beginning(&mut response).await;
    let body = without_secrets(settings, &body);
    judge(
        response.status(),
        response.headers(),
        &body,
        Timestamp::now(),
    )
}

/// Why there is no answer, without the URL.
fn no_answer(error: &reqwest::Error) -> anyhow::Error {
    let what = if error.is_connect() {
        "no connection"
    } else {
        "no answer"
    };
    let mut cause = error.source();
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    let is_plain = |cause: &rustls::Error| {
        let plain = rustls::InvalidMessage::InvalidContentType;
        *cause == rustls::Error::InvalidMessage(plain)
    };
    match cause {
        Some(cause) if cause.downcast_ref().is_some_and(is_plain) => {
            anyhow::anyhow!("{what}: the other side does not speak TLS, is its URL one of http://?")
        }
        Some(cause) => anyhow::anyhow!("{what}: {cause}"),
        None => anyhow::anyhow!(what),
    }
}

/// The beginning of the answer's body. A body that is long, slow or torn changes nothing of what the
/// status said: it costs the connection.
async fn beginning(response: &mut Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while body.len() < MAX_ANSWER_BYTES
            && let Ok(Some(chunk)) = response.chunk().await
        {
            let room = MAX_ANSWER_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
    };
    let _ = timeout(ANSWER_PATIENCE, read).await;
    String::from_utf8_lossy(&body).into_owned()
}

/// The text without what may be secret of a request: some receivers repeat headers or URL.
fn without_secrets(settings: &WebhookSettings, text: &str) -> String {
    let values = settings.headers.values();
    let values = values.filter_map(|value| value.to_str().ok());
    // Such as `Bearer` and a token.
    let words = values.flat_map(str::split_whitespace);
    let path = settings.url.path().split('/');
    let query = settings.url.query().unwrap_or_default().split(['&', '=']);
    words
        .chain(path)
        .chain(query)
        .filter(|word| word.len() >= SECRET_BYTES)
        .fold(text.to_owned(), |text, word| text.replace(word, "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_repeats_of_the_request_is_left_out() {
        let url = "https://example.org/hooks/t0ken-in-path?key=t0ken-in-query";
        let settings = WebhookSettings::new(url).unwrap();
        let settings = settings.with_headers("Authorization: Bearer t0ken-in-header");
        let text = "Cannot POST /hooks/t0ken-in-path?key=t0ken-in-query for Bearer t0ken-in-header";
        let shown = without_secrets(&settings.unwrap(), text);
        assert_eq!(shown, "Cannot POST /hooks/…?key=… for Bearer …");
    }
}
