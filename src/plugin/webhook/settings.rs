//! Where a webhook goes, and with what.

use std::fmt;
use std::str::FromStr as _;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::signature::{EXPECTED, SigningKey};
use crate::session::InvalidField;

const ANY_URL: &str = "expected a URL that begins with https:// or http://";

/// Headers that are about the connection or the form of the body, and so not for a file to set.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WebhookBody {
    /// One event. Give the plugin a `max_batch` of 1, so that each request has a deadline of its own.
    #[default]
    Event,
    /// `{"type":"session_batch","schema":1,"events":[…]}`, even for one event.
    Batch,
}

/// Where a [`WebhookPlugin`](super::WebhookPlugin) sends its requests, and how.
///
/// Neither secrets nor headers nor the URL's path, where services keep secrets too, are ever shown.
///
/// ```
/// use session_supervisor::{DeliveryPolicy, PluginSpec, WebhookPlugin, WebhookSettings};
///
/// let settings = WebhookSettings::new("https://example.org/hooks/sessions")?
///     .with_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let mut policy = DeliveryPolicy::default();
/// policy.max_batch = 1;
/// policy.max_in_flight = 4;
/// let plugin = PluginSpec::new("crm", move || WebhookPlugin::new(settings.clone()))
///     .with_policy(policy);
/// # Ok::<(), session_supervisor::InvalidField>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    pub(super) url: Url,
    pub(super) body: WebhookBody,
    pub(super) keys: Vec<SigningKey>,
    pub(super) headers: HeaderMap,
    /// The authorities that are trusted; with none, those that the system trusts.
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

impl WebhookSettings {
    /// Sends each event to `url`, unsigned.
    ///
    /// # Errors
    ///
    /// When `url` is no `http://` or `https://` URL, or has a user or a password.
    pub fn new(url: &str) -> Result<Self, InvalidField> {
        let refused = |problem: &str| InvalidField::new("url", problem);
        if !url.contains("://") {
            return Err(refused(ANY_URL));
        }
        let url = Url::parse(url)
            .map_err(|error| refused(&format!("expected an https:// URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused(ANY_URL));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused(
                "expected no user and password in it: send them in the header `Authorization`",
            ));
        }
        Ok(Self {
            url,
            body: WebhookBody::default(),
            keys: Vec::new(),
            headers: HeaderMap::new(),
            authorities: Vec::new(),
        })
    }

    /// Sends this instead of one event.
    #[must_use]
    pub fn with_body(mut self, body: WebhookBody) -> Self {
        self.body = body;
        self
    }

    /// Signs each request with every one of these: `whsec_` and a key of 24 to 64 bytes in base64 each,
    /// with spaces between them. While a secret is changed, the old and the new one both sign.
    ///
    /// # Errors
    ///
    /// When there is none, or one is malformed.
    pub fn with_secrets(mut self, secrets: &str) -> Result<Self, InvalidField> {
        let refused = |problem| InvalidField::new("secret", problem);
        let keys = secrets.split_ascii_whitespace().map(SigningKey::parse);
        self.keys = keys.collect::<Result<_, _>>().map_err(refused)?;
        if self.keys.is_empty() {
            return Err(refused(EXPECTED.into()));
        }
        Ok(self)
    }

    /// Sends these headers too: `Name: value`, one per line.
    ///
    /// # Errors
    ///
    /// When a line is no header, or one that says something of the connection, of the body or of the
    /// signature.
    pub fn with_headers(mut self, lines: &str) -> Result<Self, InvalidField> {
        self.headers = HeaderMap::new();
        for (index, line) in lines.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            // The line itself is in no message: it may be a secret.
            let (name, value) = parse_header(line).map_err(|problem| {
                InvalidField::new("headers", format!("line {}: {problem}", index + 1))
            })?;
            self.headers.append(name, value);
        }
        Ok(self)
    }

    /// Trusts the authorities in `pem` instead of those that the system trusts.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it, or one that can't be an authority.
    pub fn with_authorities(mut self, pem: &[u8]) -> Result<Self, InvalidField> {
        let refused = |problem| InvalidField::new("authorities", problem);
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let found = found
            .map_err(|error| refused(format!("expected certificates in PEM form: {error}")))?;
        let mut usable = RootCertStore::empty();
        for certificate in &found {
            usable.add(certificate.clone()).map_err(|error| {
                refused(format!("expected certificates of authorities: {error}"))
            })?;
        }
        if usable.is_empty() {
            return Err(refused("expected a certificate in PEM form".into()));
        }
        self.authorities = found;
        Ok(self)
    }

    /// Whether requests are signed.
    pub fn is_signed(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether others on the way can read what is sent: it is not encrypted, and leaves this machine.
    pub fn is_exposed(&self) -> bool {
        self.url.scheme() == "http" && !is_loopback(&self.url)
    }

    /// Scheme, host and port: all of the URL that is shown.
    pub(super) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

fn parse_header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let Some((name, value)) = line.split_once(':') else {
        return Err("expected `Name: value`".into());
    };
    let Ok(name) = HeaderName::from_str(name) else {
        return Err("expected the name of a header before the colon".into());
    };
    let shown = name.as_str();
    if RESERVED_HEADERS.contains(&shown) || shown.starts_with("webhook-") {
        return Err(format!("expected another header than `{shown}`"));
    }
    let Ok(mut value) = HeaderValue::from_str(value.trim()) else {
        return Err(format!(
            "`{shown}` has control characters, expected visible ones"
        ));
    };
    value.set_sensitive(true);
    Ok((name, value))
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSettings")
            .field("origin", &self.origin())
            .field("body", &self.body)
            .field("keys", &self.keys)
            .field("headers", &self.headers)
            .field("authorities", &self.authorities.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn settings() -> WebhookSettings {
        WebhookSettings::new("https://example.org/hooks/s3cret?key=s3cret").unwrap()
    }

    fn problem<T: fmt::Debug>(result: Result<T, InvalidField>) -> String {
        result.unwrap_err().problem
    }

    #[test]
    fn a_url_is_of_http_and_names_no_user() {
        for (url, expected) in [
            ("", ANY_URL),
            ("example.org", ANY_URL),
            ("https://", "expected an https:// URL: empty host"),
            ("ftp://example.org", ANY_URL),
            (
                "https://me@example.org",
                "expected no user and password in it: send them in the header `Authorization`",
            ),
            (
                "https://:s3cret@example.org",
                "expected no user and password in it: send them in the header `Authorization`",
            ),
        ] {
            assert_eq!(problem(WebhookSettings::new(url)), expected, "{url}");
        }
    }

    #[test]
    fn what_leaves_this_machine_unencrypted_is_exposed() {
        for (url, expected) in [
            ("https://example.org", false),
            ("http://example.org", true),
            ("http://192.0.2.1", true),
            ("http://localhost:8080/x", false),
            ("http://127.0.0.2", false),
            ("http://[::1]:8080", false),
        ] {
            let settings = WebhookSettings::new(url).unwrap();
            assert_eq!(settings.is_exposed(), expected, "{url}");
        }
    }

    #[test]
    fn several_secrets_have_spaces_between_them() {
        let both = format!("{SECRET}  {SECRET}\n");
        let settings = settings().with_secrets(&both).unwrap();
        assert!(settings.is_signed());
        assert_eq!(settings.keys.len(), 2);
        for wrong in ["", " \n", &format!("{SECRET},{SECRET}")] {
            let problem = problem(super::tests::settings().with_secrets(wrong));
            assert!(!problem.contains(&SECRET[6..]), "{problem}");
        }
    }

    #[test]
    fn headers_are_lines_of_name_and_value() {
        let lines = "Authorization: Bearer s3cret\n\nX-Team:  a b \nx-team: c\n";
        let headers = settings().with_headers(lines).unwrap().headers;
        let values: Vec<_> = headers.get_all("x-team").iter().collect();
        assert_eq!(values, ["a b", "c"]);
        assert_eq!(headers["authorization"], "Bearer s3cret");
    }

    #[test]
    fn a_header_that_is_not_for_a_file_is_refused() {
        for (line, expected) in [
            ("Bearer s3cret", "line 2: expected `Name: value`"),
            (
                "s 3: cret",
                "line 2: expected the name of a header before the colon",
            ),
            (
                ": s3cret",
                "line 2: expected the name of a header before the colon",
            ),
            (
                "Webhook-Id: s3cret",
                "line 2: expected another header than `webhook-id`",
            ),
            (
                "Host: s3cret",
                "line 2: expected another header than `host`",
            ),
            (
                "Connection: close",
                "line 2: expected another header than `connection`",
            ),
            (
                "X-Token: s3\u{1}cret",
                "line 2: `x-token` has control characters, expected visible ones",
            ),
        ] {
            let lines = format!("X-Fine: 1\n{line}\n");
            let problem = problem(settings().with_headers(&lines));
            assert_eq!(problem, expected, "{line:?}");
        }
    }

    #[test]
    fn authorities_are_certificates() {
        let pem = |tag: &str| format!("-----BEGIN {tag}-----\nMAA=\n-----END {tag}-----\n");
        for (text, expected) in [
            (String::new(), "expected a certificate in PEM form"),
            (pem("PRIVATE KEY"), "expected a certificate in PEM form"),
            (pem("CERTIFICATE"), "expected certificates of authorities: "),
            (
                "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n".into(),
                "expected certificates in PEM form: ",
            ),
        ] {
            let problem = problem(settings().with_authorities(text.as_bytes()));
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let settings = settings().with_secrets(SECRET).unwrap();
        let settings = settings
            .with_headers("Authorization: Bearer s3cret")
            .unwrap();
        let shown = format!("{settings:?}");
        assert!(shown.contains("https://example.org"), "{shown}");
        assert!(shown.contains("authorization"), "{shown}");
        assert!(
            !shown.contains("s3cret") && !shown.contains(&SECRET[6..12]),
            "{shown}"
        );
    }
}
