//! The bodies of requests: what is refused before they are read, while, and after.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use utoipa::ToSchema;

use super::pointer::pointer;
use super::problem::{Kind, Problem};
use super::route::Permission;

/// Largest body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a body may take to arrive, so that slow clients don't hold their connection for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request that changes something.
///
/// Every handler of a POST, PUT or DELETE takes one, also where there is nothing to say: it refuses
/// a content type that is not JSON, which keeps web pages out, then a body that is too large, and
/// then a caller whose scope does not cover the request.
#[derive(Debug)]
pub(super) struct Body(Bytes);

/// Nothing: the request has no fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFields {}

impl FromRequest for Body {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let checked = check_head(request);
        let may_change = noted_permission(request);
        let payload = payload.take();
        Box::pin(async move {
            checked?;
            let body = tokio::time::timeout(BODY_TIMEOUT, read(payload)).await;
            let body = body.unwrap_or_else(|_| {
                let limit = BODY_TIMEOUT.as_secs();
                let detail = format!("the body did not arrive within {limit} s");
                Err(Problem::new(Kind::MalformedJson, detail))
            })?;
            may_change?;
            Ok(body)
        })
    }
}

fn check_head(request: &HttpRequest) -> Result<(), Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "Content-Type must be application/json, also when the body is empty",
        ));
    }
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    Ok(())
}

/// What the route has found of the caller's scope.
fn noted_permission(request: &HttpRequest) -> Result<(), Problem> {
    let permission = request.extensions_mut().remove::<Permission>();
    permission.map_or_else(
        || {
            let detail = "nobody may change anything here, with whatever token";
            Err(Problem::new(Kind::Forbidden, detail))
        },
        |Permission(checked)| checked,
    )
}

/// Whether the one content type given is JSON, with whatever parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE);
    let (Some(only), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = only.to_str().unwrap_or_default().split(';').next();
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

async fn read(mut payload: Payload) -> Result<Body, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            let detail = format!("the body did not arrive whole: {error}");
            Problem::new(Kind::MalformedJson, detail)
        })?;
        // A chunked body has no declared length.
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Body(body.freeze()))
}

fn too_large() -> Problem {
    let limit = MAX_BODY_BYTES / 1024;
    let detail = format!("the body must be at most {limit} KiB long");
    Problem::new(Kind::BodyTooLarge, detail)
}

impl Body {
    /// The body as the JSON object that it must be.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        parse(&self.0)
    }

    /// The same, for requests of which every field may be left out: nothing means `{}`.
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.0.is_empty() {
            Ok(T::default())
        } else {
            self.json()
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // A struct may be read from an array too, which is no object.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    match serde_json::from_slice(body) {
        Ok(request) if is_object => Ok(request),
        _ => explain(body),
    }
}

/// What is wrong with a body that can't be read.
fn explain<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // First whether it is JSON at all, then what it says: a malformed body must not be taken for
    // one with an invalid field because that comes first.
    let document: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Kind::MalformedJson, error.to_string()))?;
    if !document.is_object() {
        return Err(Problem::invalid_field("#", "must be a JSON object"));
    }
    // From the text, since `Value` no longer shows a field that came twice.
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let detail = error.inner().to_string();
        Problem::invalid_field(
            pointer_to(error.path()),
            without_position(&detail).to_owned(),
        )
    })
}

/// Where in the text a field is at fault, which its pointer says better.
fn without_position(detail: &str) -> &str {
    let (problem, position) = detail.rsplit_once(" at line ").unwrap_or((detail, ""));
    let is_position = |text: &str| {
        text.chars()
            .all(|it| it.is_ascii_digit() || " column".contains(it))
    };
    match is_position(position) {
        true => problem,
        false => detail,
    }
}

fn pointer_to(path: &Path) -> String {
    let names = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        // No request has enums with fields.
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    let names: Vec<_> = names.collect();
    pointer(names.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use serde::Deserialize;
    use serde_json::Map;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        name: Option<String>,
        count: Option<u64>,
        #[serde(default)]
        map: Map<String, Value>,
        #[serde(default)]
        list: Vec<u64>,
    }

    fn refusal(body: &str) -> String {
        parse::<Example>(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for body in [
            "",
            "{",
            "{}x",
            "{} {}",
            "{'name': 1}",
            "NaN",
            "{\"name\": \"\\ud800\"}",
        ] {
            let refusal = refusal(body);
            assert!(refusal.starts_with("malformed-json"), "{body}: {refusal}");
        }
        let not_utf8 = parse::<Example>(b"{\"name\": \"\xff\"}").unwrap_err();
        assert!(not_utf8.to_string().starts_with("malformed-json"));
    }

    #[test]
    fn a_malformed_body_is_not_taken_for_one_with_an_invalid_field() {
        assert!(refusal("{\"name\": 1, ").starts_with("malformed-json"));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["[]", "[\"a\", 1, {}]", "null", "3", "\"x\""] {
            let refusal = refusal(body);
            assert!(refusal.contains("(#: must be a JSON object)"), "{refusal}");
        }
    }

    #[test]
    fn the_field_at_fault_is_pointed_at() {
        for (body, pointer) in [
            ("{\"name\": 1}", "#/name"),
            ("{\"count\": -1}", "#/count"),
            ("{\"count\": 1.5}", "#/count"),
            ("{\"map\": []}", "#/map"),
            ("{\"map\": null}", "#/map"),
            ("{\"list\": 1}", "#/list"),
            ("{\"list\": [1, -1]}", "#/list/1"),
            ("{\"name\": \"a\", \"nam/e\": 1}", "#/nam~1e"),
        ] {
            let refusal = refusal(body);
            assert!(refusal.contains(&format!("({pointer}:")), "{refusal}");
        }
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let refusal = refusal("{\"name\": \"a\", \"name\": \"b\"}");
        assert!(refusal.contains("duplicate field `name`"), "{refusal}");
    }

    #[test]
    fn only_an_absent_body_means_defaults() {
        let body = |text: &'static str| Body(Bytes::from_static(text.as_bytes()));
        assert_eq!(body("").json_or_default(), Ok(Example::default()));
        assert!(body(" ").json_or_default::<Example>().is_err());
        assert!(body("").json::<Example>().is_err());
    }

    #[test]
    fn the_content_type_must_be_json() {
        let is_accepted = |types: &[&'static str]| {
            let request = types.iter().fold(TestRequest::post(), |request, value| {
                request.append_header((header::CONTENT_TYPE, *value))
            });
            check_head(&request.to_http_request()).is_ok()
        };
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json ;charset=utf-8",
        ] {
            assert!(is_accepted(&[good]), "{good} was refused");
        }
        for bad in [
            "",
            "text/plain",
            "text/plain; application/json",
            "application/json, text/plain",
            "application/jsonp",
            "application/problem+json",
        ] {
            assert!(!is_accepted(&[bad]), "{bad} was accepted");
        }
        assert!(!is_accepted(&[]));
        assert!(!is_accepted(&["application/json", "text/plain"]));
    }

    #[actix_web::test]
    async fn a_body_that_does_not_come_is_given_up() {
        tokio::time::pause();
        let silence = Box::pin(futures_util::stream::pending());
        let mut payload: Payload = Payload::Stream { payload: silence };
        let request = TestRequest::post()
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .to_http_request();
        let refusal = Body::from_request(&request, &mut payload).await;
        assert!(refusal.unwrap_err().to_string().contains("within 10 s"));
    }

    #[test]
    fn a_field_at_fault_is_not_told_where_in_the_text_it_is() {
        let unknown = "unknown variant `x`, expected one of `a`, `b`";
        assert_eq!(
            without_position(&format!("{unknown} at line 3 column 1")),
            unknown
        );
        assert_eq!(
            without_position("stands at line noise"),
            "stands at line noise"
        );
        assert_eq!(without_position(unknown), unknown);
    }
}
