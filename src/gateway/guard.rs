//! Who may ask at all, decided before anything else of a request is looked at.
//!
//! Without a token the gateway is open to the programs of its machine, but not to the web pages
//! that a browser on it shows. A page that had its name resolved to a loopback address still sends
//! that name as `Host`; a page of another origin sends its `Origin` with whatever could change
//! something; and what it can send without asking first is never `application/json` (see
//! [`Body`](super::body::Body)). What a page merely shows, such as an image or a frame, comes
//! without an origin: of that the browser tells in `Sec-Fetch-Site` where it comes from. The page
//! could not read it, but find out whether there is a session of a name.
//!
//! With tokens the gateway may be known by any name, and a page that has none is refused for that.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::uri::Authority;
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage as _, ResponseError as _};

use super::access::Access;
use super::answers::Answers;
use super::caller::Caller;
use super::problem::{Kind, Problem};

/// What health checks ask, which know the machine by whatever name and have no token.
pub(super) const HEALTH: &[&str] = &["/healthz", "/readyz"];

/// The middleware that refuses requests of other hosts and origins, and those without a token.
///
/// The handlers find the [`Caller`] in the request's extensions, but for health checks. An answer
/// goes out in the same turn of its thread in which this is done with it, so that one that counts
/// as over here can't be cut off by a stop.
pub(super) async fn guard(
    access: Data<Access>,
    answers: Data<Answers>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let _answering = answers.begin();
    match check(request.head(), &access) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            Ok(next.call(request).await?.map_into_boxed_body())
        }
        Err(problem) => Ok(request.into_response(problem.error_response())),
    }
}

fn check(request: &RequestHead, access: &Access) -> Result<Option<Caller>, Problem> {
    let hosts = hosts(request);
    let is_health_check = HEALTH.contains(&request.uri.path());
    let any_host = is_health_check || access.needs_token();
    if !any_host && (hosts.is_empty() || !hosts.iter().all(|host| is_loopback(host))) {
        return Err(Problem::new(
            Kind::Forbidden,
            "Host must be a loopback name such as localhost or 127.0.0.1",
        ));
    }
    let mut origins = request.headers.get_all(header::ORIGIN);
    let is_foreign = origins.any(|origin| !is_own_origin(origin.as_bytes(), &hosts));
    if is_foreign || is_of_another_site(&request.headers) {
        return Err(Problem::new(
            Kind::Forbidden,
            "requests of web pages of another origin are refused",
        ));
    }
    if is_health_check {
        return Ok(None);
    }
    let authorization = request.headers.get_all(header::AUTHORIZATION);
    let caller = access.caller(authorization.map(HeaderValue::as_bytes))?;
    Ok(Some(caller))
}

/// Whether the browser says that a page of another origin asks. A link that the user follows is
/// no question of the page, which does not see what comes of it.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get_all("sec-fetch-site");
    let mut others = site.filter(|site| !["same-origin", "none"].iter().any(|own| site == own));
    let is_link = headers
        .get("sec-fetch-dest")
        .is_some_and(|to| to == "document");
    others.next().is_some() && !is_link
}

/// Every name under which the client addresses us: that of an absolute target, and `Host`. One
/// that is not text is empty, and so is no name of ours.
fn hosts(request: &RequestHead) -> Vec<&str> {
    let target = request.uri.authority().map(Authority::as_str);
    let headers = request.headers.get_all(header::HOST);
    let headers = headers.map(|host| host.to_str().unwrap_or_default());
    target.into_iter().chain(headers).collect()
}

/// Whether `host`, a name with or without a port, always means this machine.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        // Inside brackets a colon belongs to the address.
        Some(colon) if !host.ends_with(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_own_name = if let Some(address) = name.strip_prefix('[') {
        let address = address.strip_suffix(']').map(str::parse);
        address == Some(Ok(Ipv6Addr::LOCALHOST))
    } else {
        name.eq_ignore_ascii_case("localhost")
            || name
                .parse()
                .is_ok_and(|address: Ipv4Addr| address.is_loopback())
    };
    is_port && is_own_name
}

/// Whether `origin` is that of a page which the gateway itself served, under the name by which it
/// is addressed now.
fn is_own_origin(origin: &[u8], hosts: &[&str]) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else {
        return false;
    };
    // TLS, if any, ends in front of us, and a browser leaves the scheme out of `Host`.
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let is_ours = |host: &str| hosts.iter().all(|own| own.eq_ignore_ascii_case(host));
    !hosts.is_empty() && host.is_some_and(is_ours)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::gateway::{Scope, Secret, Token};

    #[test]
    fn loopback_names_are_told_from_others() {
        for own in [
            "localhost",
            "LocalHost:7467",
            "127.0.0.1",
            "127.255.0.9:80",
            "[::1]",
            "[::1]:7467",
        ] {
            assert!(is_loopback(own), "{own} was refused");
        }
        for other in [
            "",
            ":80",
            "example.org",
            "localhost.example.org",
            "localhost.",
            "example.org:80",
            "10.0.0.1",
            "0.0.0.0",
            "127.1",
            "0x7f.0.0.1",
            "127.0.0.1.example.org",
            "127.0.0.1:80:80",
            "localhost:+80",
            "localhost:http",
            "user@localhost",
            "localhost@example.org",
            "[::2]",
            "[::1]x",
            "[::1",
            "::1",
        ] {
            assert!(!is_loopback(other), "{other} was accepted");
        }
    }

    fn refused(path: &str, headers: &[(&'static str, &'static str)]) -> bool {
        status(&Access::loopback(), path, headers) != 200
    }

    /// What a request is refused with, or 200.
    fn status(access: &Access, path: &str, headers: &[(&'static str, &'static str)]) -> u16 {
        let request = headers
            .iter()
            .fold(TestRequest::with_uri(path), |request, header| {
                request.append_header(*header)
            });
        let refusal = check(request.to_srv_request().head(), access).err();
        refusal.map_or(200, |problem| problem.status_code().as_u16())
    }

    #[test]
    fn a_request_that_names_no_host_or_another_one_is_refused() {
        assert!(!refused("/v1/sessions", &[("host", "localhost:7467")]));
        assert!(refused("/v1/sessions", &[]));
        assert!(refused("/v1/sessions", &[("host", "example.org")]));
    }

    #[test]
    fn one_good_host_does_not_excuse_another() {
        let both = [("host", "localhost"), ("host", "example.org")];
        assert!(refused("/v1/sessions", &both));
        let target = "http://example.org/v1/sessions";
        assert!(refused(target, &[("host", "localhost")]));
        assert!(!refused("http://localhost/", &[("host", "localhost")]));
    }

    #[test]
    fn health_checks_may_use_any_host() {
        assert!(!refused("/healthz", &[("host", "10.1.2.3:7467")]));
        assert!(!refused("/readyz", &[]));
        assert!(refused("/healthz/x", &[("host", "10.1.2.3:7467")]));
    }

    #[test]
    fn a_foreign_origin_is_refused() {
        for (origin, expected) in [
            ("http://localhost:7467", false),
            ("https://localhost:7467", false),
            ("http://localhost:3000", true),
            ("http://localhost", true),
            ("http://127.0.0.1:7467", true),
            ("https://example.org", true),
            ("file://localhost:7467", true),
            ("null", true),
            ("", true),
        ] {
            let headers = [("host", "localhost:7467"), ("origin", origin)];
            assert_eq!(refused("/v1/sessions", &headers), expected, "{origin}");
            assert_eq!(refused("/healthz", &headers), expected, "{origin}");
        }
    }

    #[test]
    fn with_a_token_any_host_is_answered_but_no_foreign_origin() {
        let secret = Secret::new("0123456789abcdef").unwrap();
        let access = Access::tokens([Token::new("ops", Scope::Operator, secret)]);
        let status = |path, headers: &[_]| status(&access, path, headers);
        let token = ("authorization", "Bearer 0123456789abcdef");
        let (host, origin) = (("host", "example.org"), ("origin", "http://example.com"));

        assert_eq!(status("/v1/sessions", &[host, token]), 200);
        assert_eq!(status("/v1/sessions", &[token]), 200);
        assert_eq!(status("/v1/sessions", &[host]), 401);
        assert_eq!(status("/v1/sessions", &[("host", "localhost")]), 401);
        assert_eq!(status("/v1/sessions", &[host, origin, token]), 403);
        assert_eq!(status("/healthz", &[host]), 200);
        assert_eq!(status("/readyz", &[]), 200);
        assert_eq!(status("/healthz", &[host, origin]), 403);
        assert_eq!(status("/healthz/x", &[host]), 401);
    }

    #[test]
    fn what_a_page_of_another_origin_shows_is_refused() {
        for (site, dest, expected) in [
            ("cross-site", "object", true),
            ("cross-site", "image", true),
            ("cross-site", "empty", true),
            ("same-site", "iframe", true),
            ("same-origin", "empty", false),
            ("none", "document", false),
            ("cross-site", "document", false),
        ] {
            let fetch = [("sec-fetch-site", site), ("sec-fetch-dest", dest)];
            let headers = [&[("host", "localhost")][..], &fetch].concat();
            let is_refused = refused("/v1/sessions", &headers);
            assert_eq!(is_refused, expected, "{site} {dest}");
        }
        let site = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert!(refused("/v1/sessions", &site));
    }

    #[test]
    fn an_origin_without_a_host_to_compare_it_with_is_foreign() {
        assert!(refused("/healthz", &[("origin", "http://example.org")]));
    }
}
