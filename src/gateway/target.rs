//! The targets of requests: names in the path, and the query.

use actix_web::HttpRequest;
use actix_web::web::Query;
use percent_encoding::percent_decode_str;

use super::pointer::pointer;
use super::problem::Problem;
use crate::session::{HolderId, SessionId};

/// The session that the path names: `/v1/sessions/{id}…`.
pub(super) fn session_id(request: &HttpRequest) -> Result<SessionId, Problem> {
    let invalid = |problem| Problem::invalid_field("#/path/id", problem);
    let id = name(request).map_err(|problem| invalid(problem.to_owned()))?;
    SessionId::new(id).map_err(|error| invalid(error.problem))
}

/// The holder that the path names: `/v1/holders/{holder}/…`.
pub(super) fn holder(request: &HttpRequest) -> Result<HolderId, Problem> {
    let invalid = |problem| Problem::invalid_field("#/path/holder", problem);
    let holder = name(request).map_err(|problem| invalid(problem.to_owned()))?;
    HolderId::new(holder).map_err(|error| invalid(error.problem))
}

/// The plugin that the path names: `/v1/plugins/{name}/…`. There need be none.
pub(super) fn plugin_name(request: &HttpRequest) -> Result<String, Problem> {
    name(request).map_err(|problem| Problem::invalid_field("#/path/name", problem))
}

/// The `{name}` of a path `/v1/kind/{name}…`, decoded.
///
/// From the target as it was sent: in what the router matched, bytes that are no UTF-8 are replaced
/// already, so that several names would look the same.
fn name(request: &HttpRequest) -> Result<String, &'static str> {
    let name = request.uri().path().split('/').nth(3).unwrap_or_default();
    let has_two_digits = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !name.split('%').skip(1).all(has_two_digits) {
        return Err("has a `%` that two hexadecimal digits don't follow: encode it as `%25`");
    }
    let name = percent_decode_str(name).decode_utf8();
    let name = name.map_err(|_| "must be percent-encoded UTF-8")?;
    Ok(name.into_owned())
}

/// The parameters of the query, each at most once and each among `known`.
pub(super) fn query(
    request: &HttpRequest,
    known: &[&str],
) -> Result<Vec<(String, String)>, Problem> {
    let parameters = Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|error| Problem::invalid_field("#/query", error.to_string()))?
        .into_inner();
    for (index, (name, _)) in parameters.iter().enumerate() {
        let problem = if !known.contains(&name.as_str()) {
            match known {
                [] => "is unknown: this request takes no parameters".to_owned(),
                known => format!("is unknown or not supported: expected {}", known.join(", ")),
            }
        } else if parameters[..index]
            .iter()
            .any(|(earlier, _)| earlier == name)
        {
            "is given twice".to_owned()
        } else {
            continue;
        };
        return Err(Problem::invalid_field(pointer(["query", name]), problem));
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn id_in(path: &str) -> Result<String, String> {
        let request = TestRequest::with_uri(path).to_http_request();
        let id = session_id(&request).map_err(|problem| problem.to_string())?;
        Ok(id.to_string())
    }

    #[test]
    fn ids_in_paths_are_decoded_exactly_once() {
        for (encoded, id) in [
            ("a", "a"),
            ("agent:main", "agent:main"),
            ("a%2Fb%2fc", "a/b/c"),
            ("%C3%A4%20%F0%9F%A6%80", "\u{e4} \u{1f980}"),
            ("50%25", "50%"),
            ("%252F", "%2F"),
            ("a+b", "a+b"),
            ("...", "..."),
        ] {
            assert_eq!(
                id_in(&format!("/v1/sessions/{encoded}/end")).as_deref(),
                Ok(id)
            );
        }
    }

    #[test]
    fn ids_in_paths_that_are_malformed_are_refused() {
        for (encoded, problem) in [
            ("%FF", "percent-encoded UTF-8"),
            ("%C3", "percent-encoded UTF-8"),
            ("%zz", "encode it as `%25`"),
            ("a%2", "encode it as `%25`"),
            ("%", "encode it as `%25`"),
            ("a%0Ab", "control characters"),
            ("%2E%2e", "must not be"),
            (&"x".repeat(257), "256 bytes"),
        ] {
            let refusal = id_in(&format!("/v1/sessions/{encoded}")).unwrap_err();
            assert!(refusal.contains("(#/path/id: "), "{refusal}");
            assert!(refusal.contains(problem), "{refusal}");
        }
    }
}
