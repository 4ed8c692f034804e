//! The gateway, asked over HTTP.

use std::env;
use std::io::{self, ErrorKind};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::uri::Authority;
use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::failure::{Failure, Problem};
use super::output::Output;

const URL: &str = "SESSION_SUPERVISOR_URL";
const TOKEN: &str = "SESSION_SUPERVISOR_TOKEN";
const DEFAULT_URL: &str = "http://127.0.0.1:7467";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For what takes the gateway long, such as a plugin's test or the end of a million sessions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// For questions that a healthy gateway answers at once.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A page of the list may hold its most sessions with all the metadata that they may have.
const MAX_ANSWER: u64 = 64 << 20;

/// Which gateway is asked.
///
/// A token is taken from the environment alone: a command line is seen by everyone on a machine.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Target {
    /// The gateway's address
    ///
    /// SESSION_SUPERVISOR_TOKEN holds the token where the gateway wants one.
    /// [env: SESSION_SUPERVISOR_URL] [default: http://127.0.0.1:7467]
    #[arg(long, global = true, value_name = "URL", value_parser = parse_url)]
    url: Option<String>,
}

impl Target {
    pub(super) fn client(self) -> Result<Client, Failure> {
        let url = match (self.url, variable(URL)?) {
            (Some(url), _) => url,
            (None, Some(url)) => {
                parse_url(&url).map_err(|problem| Failure::Usage(format!("{URL}: {problem}")))?
            }
            (None, None) => DEFAULT_URL.into(),
        };
        let token = variable(TOKEN)?.map(|token| bearer(&token)).transpose()?;
        let roots = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // No gateway redirects, and a token goes nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A gateway is near, and often on loopback, where no proxy reaches it.
            .proxy(None)
            .tls_config(roots.build())
            .timeout_connect(Some(CONNECT_TIMEOUT));
        Ok(Client {
            agent: config.build().into(),
            url,
            token,
        })
    }
}

fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            let problem = "is not UTF-8, expected text";
            Err(Failure::Usage(format!("{name}: {problem}")))
        }
    }
}

/// The address without a slash at its end. Never repeats what may hold a password.
fn parse_url(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected one such as http://127.0.0.1:7467";
    let url: Uri = text
        .parse()
        .map_err(|_| format!("is no address, {EXPECTED}"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(format!(
            "begins with neither http:// nor https://, {EXPECTED}"
        ));
    }
    let authority = url.authority().map(Authority::as_str);
    if authority.is_none_or(|authority| authority.contains('@')) {
        return Err(format!(
            "has a user in it, expected none: a token is given in {TOKEN}"
        ));
    }
    if url.query().is_some() || text.contains('#') {
        return Err(format!("has a query or a fragment, {EXPECTED}"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The header that carries the token. The message does not repeat it.
fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let is_token = token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::try_from(format!("Bearer {token}")).ok();
    let mut header = header.filter(|_| is_token).ok_or_else(|| {
        let problem = "is no token, expected visible ASCII characters without spaces";
        Failure::Usage(format!("{TOKEN}: {problem}"))
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// An id or a name as a part of a path or a query.
pub(super) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A gateway.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    token: Option<HeaderValue>,
}

/// How a gateway is that was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It takes sessions.
    Ready,
    /// It answers, and takes no sessions, or it is just about to go.
    Closing,
    /// Nobody listens there.
    Gone,
}

impl Client {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(self.get_within(path, ANSWER_TIMEOUT))
    }

    /// Asks what is answered at once or never.
    pub(super) fn probe(&self, path: &str) -> Result<Answer, Failure> {
        self.answer(self.get_within(path, PROBE_TIMEOUT))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.config().timeout_global(Some(ANSWER_TIMEOUT));
        self.answer(request.build().send_json(body))
    }

    /// The stream of what happens in a stop: what comes of it ends with the gateway.
    pub(super) fn events(&self) -> Result<impl io::Read + Send + use<>, Failure> {
        let mut request = self
            .agent
            .get(format!("{}/v1/events?types=delivery,drain", self.url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.header(header::ACCEPT, "text/event-stream");
        let request = request.config().timeout_recv_response(Some(PROBE_TIMEOUT));
        let response = request.build().call();
        let response = response.map_err(|error| self.not_reachable(&error.to_string()))?;
        if response.status() != 200 {
            self.answer(Ok(response))?;
            return Err(self.no_gateway("no stream of events"));
        }
        Ok(response.into_body().into_reader())
    }

    /// Whether the gateway is still there.
    pub(super) fn presence(&self) -> Presence {
        let request = self.agent.get(format!("{}/readyz", self.url));
        // A connection that is kept would have to be ended by the gateway that is going.
        let request = request.header(header::CONNECTION, "close");
        let request = request.config().timeout_global(Some(PROBE_TIMEOUT));
        match request.build().call() {
            // What stands in front of it finds nobody any more.
            Ok(response) if [502, 504].contains(&response.status().as_u16()) => Presence::Gone,
            Ok(response) if response.status() == 200 => Presence::Ready,
            Ok(_) => Presence::Closing,
            Err(ureq::Error::ConnectionFailed | ureq::Error::HostNotFound) => Presence::Gone,
            Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                Presence::Gone
            }
            Err(_) => Presence::Closing,
        }
    }

    fn get_within(&self, path: &str, limit: Duration) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.config().timeout_global(Some(limit));
        request.build().call()
    }

    fn answer(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Answer, Failure> {
        let failed = |error: ureq::Error| self.not_reachable(&error.to_string());
        let mut response = response.map_err(failed)?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        let text = body.read_to_string().map_err(failed)?;
        let status = response.status();
        if status.is_success() {
            let url = self.url.clone();
            return Ok(Answer { text, url });
        }
        if let Ok(problem) = serde_json::from_str::<Problem>(&text) {
            return Err(Failure::Refused(problem));
        }
        if [502, 503, 504].contains(&status.as_u16()) {
            return Err(self.not_reachable(&format!("what stands in front of it answers {status}")));
        }
        Err(self.no_gateway(&format!("status {status}")))
    }

    fn not_reachable(&self, cause: &str) -> Failure {
        Failure::NotReachable {
            url: self.url.clone(),
            cause: cause.into(),
        }
    }

    /// What answers is something else.
    pub(super) fn no_gateway(&self, found: &str) -> Failure {
        no_gateway(&self.url, found)
    }

    /// A part of an answer has another form than it should.
    pub(super) fn misunderstood(&self, error: &serde_json::Error) -> Failure {
        misunderstood(&self.url, error)
    }
}

fn no_gateway(url: &str, found: &str) -> Failure {
    Failure::Failed(format!(
        "what answers at {url} is no gateway, or of another version: {found}\n  \
         what to do: check --url and SESSION_SUPERVISOR_URL"
    ))
}

fn misunderstood(url: &str, error: &serde_json::Error) -> Failure {
    no_gateway(url, &format!("its answer is not understood: {error}"))
}

/// What the gateway answered.
#[derive(Debug)]
pub(super) struct Answer {
    text: String,
    url: String,
}

impl Answer {
    /// Its JSON.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| misunderstood(&self.url, &error))
    }

    /// Prints it as it came, or what `table` makes of it.
    pub(super) fn print<T: DeserializeOwned>(
        &self,
        output: Output,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match output {
            Output::Json => super::output::print(&self.text),
            Output::Table => super::output::print(&table(&self.read()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_gateways_are_told_from_others() {
        for (text, expected) in [
            ("http://127.0.0.1:7467", "http://127.0.0.1:7467"),
            ("http://[::1]:7467/", "http://[::1]:7467"),
            (
                "https://example.org/sessions/",
                "https://example.org/sessions",
            ),
        ] {
            assert_eq!(parse_url(text).as_deref(), Ok(expected));
        }
        for text in [
            "",
            "127.0.0.1:7467",
            "localhost",
            "/v1",
            "ftp://example.org",
            "http://",
            "http://user:secret@example.org",
            "http://example.org/?a=b",
            "http://example.org/#a",
            "http://exa mple.org",
        ] {
            let problem = parse_url(text).unwrap_err();
            assert!(problem.contains("expected "), "{text}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let header = bearer("s3cret").unwrap();
        assert_eq!(header, "Bearer s3cret");
        assert_eq!(format!("{header:?}"), "Sensitive");
        for token in ["s3cret\n", "s3 cret", "s3crét"] {
            let failure = bearer(token).unwrap_err();
            assert_eq!(failure.code(), 2);
            assert!(!failure.to_string().contains("s3"), "{failure}");
        }
    }

    #[test]
    fn every_id_is_one_part_of_a_path() {
        assert_eq!(
            encode("a/b?c#d%ü .").to_string(),
            "a%2Fb%3Fc%23d%25%C3%BC%20%2E"
        );
    }
}
