//! Refusals as `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::fmt;

use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponseBuilder, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::session::{EndReason, InvalidField};

/// The content type of a refusal.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// What every `type` begins with.
const TYPE_PREFIX: &str = "urn:session-supervisor:problem:";

/// Seconds after which a client may try again what a 503 refused. Short, since what passes by
/// itself (a busy ledger, a restart) is over in seconds, and the answer is cheap.
const RETRY_AFTER_SECONDS: &str = "1";

/// The kinds of refusal. Each has one `type` and one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    MalformedJson,
    Unauthorized,
    Forbidden,
    NotFound,
    NotActive,
    HeldElsewhere,
    MethodNotAllowed,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidField,
    ReservedReason,
    TooManySessions,
    TooManyStreams,
    ShuttingDown,
    LedgerUnavailable,
    Busy,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed-json",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::NotActive => "not-active",
            Self::HeldElsewhere => "held-elsewhere",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTooLarge => "body-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::InvalidField => "invalid-field",
            Self::ReservedReason => "reserved-reason",
            Self::TooManySessions => "too-many-sessions",
            Self::TooManyStreams => "too-many-streams",
            Self::ShuttingDown => "shutting-down",
            Self::LedgerUnavailable => "ledger-unavailable",
            Self::Busy => "busy",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::MalformedJson => "the request is malformed",
            Self::Unauthorized => "a token is needed",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not found",
            Self::NotActive => "the session is not active",
            Self::HeldElsewhere => "another holder has it",
            Self::MethodNotAllowed => "method not allowed",
            Self::BodyTooLarge => "the body is too large",
            Self::UnsupportedMediaType => "unsupported media type",
            Self::InvalidField => "a field is invalid",
            Self::ReservedReason => "the reason is reserved",
            Self::TooManySessions => "too many sessions are active",
            Self::TooManyStreams => "too many streams are open",
            Self::ShuttingDown => "shutting down",
            Self::LedgerUnavailable => "the ledger is unavailable",
            Self::Busy => "busy",
        }
    }

    /// The `type` of its documents.
    pub(super) fn urn(self) -> String {
        format!("{TYPE_PREFIX}{}", self.name())
    }

    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::MalformedJson => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::NotActive => StatusCode::NOT_FOUND,
            Self::HeldElsewhere => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidField | Self::ReservedReason => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManySessions | Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::ShuttingDown | Self::LedgerUnavailable | Self::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct FieldError {
    /// Where it is: a JSON Pointer as a URI fragment. Fields of the body are `#/field`, parts of
    /// the request's target are `#/path/name` and `#/query/name`.
    #[schema(value_type = String, pattern = "^#")]
    pointer: Cow<'static, str>,
    /// What is wrong with it, for people.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
}

/// A refusal as a document (RFC 9457). Go by `type` and `status`; the texts are for people.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// Which kind of refusal it is.
    #[schema(pattern = "^urn:session-supervisor:problem:[a-z-]+$")]
    r#type: String,
    /// The kind in words.
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what to do.
    detail: &'a str,
    /// The field at fault, where it is one field's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<FieldError>, required = false, min_items = 1, max_items = 1)]
    errors: Option<[&'a FieldError; 1]>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    /// The field at fault, if it is one field's.
    field: Option<FieldError>,
    /// The methods that the resource has, if the refused one is not among them.
    allow: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            field: None,
            allow: None,
        }
    }

    /// The field at `pointer` is invalid.
    pub(super) fn invalid_field(
        pointer: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let problem = Self::new(Kind::InvalidField, "the request has an invalid field");
        problem.at(pointer, detail)
    }

    /// A reason that no client may give.
    pub(super) fn reserved(reason: EndReason) -> Self {
        let detail = format!("only the supervisor itself ends sessions with `{reason}`");
        Self::new(Kind::ReservedReason, detail.clone()).at("#/reason", detail)
    }

    /// A resource that has only the methods `allow`, and may end by a request of its own.
    pub(super) fn method_not_allowed(allow: String, can_end: bool) -> Self {
        let hint = match can_end {
            true => "; to end it, POST to it with `/end` behind",
            false => "",
        };
        let detail = format!("use one of {allow}{hint}");
        Self {
            allow: Some(allow),
            ..Self::new(Kind::MethodNotAllowed, detail)
        }
    }

    /// Names the field at fault.
    pub(super) fn at(
        mut self,
        pointer: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.field = Some(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }
}

impl From<InvalidField> for Problem {
    fn from(invalid: InvalidField) -> Self {
        Self::invalid_field(format!("#/{}", invalid.field), invalid.problem)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Invalid(invalid) => return invalid.into(),
            Error::NotActive(_) => Kind::NotActive,
            Error::HeldElsewhere { .. } | Error::RunIsOver { .. } => Kind::HeldElsewhere,
            Error::UnknownPlugin(_) => Kind::NotFound,
            Error::Settings(problem) => {
                return Self::new(Kind::InvalidField, problem.clone()).at("#", problem);
            }
            Error::TooManySessions { .. } => Kind::TooManySessions,
            Error::Ledger(_) => Kind::LedgerUnavailable,
            Error::ShuttingDown | Error::Stopped => Kind::ShuttingDown,
            // Threads or files have run out for now.
            Error::Busy(_) | Error::State(_) | Error::Start(_) => Kind::Busy,
        };
        Self::new(kind, error.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)?;
        match &self.field {
            Some(field) => write!(f, " ({}: {})", field.pointer, field.detail),
            None => Ok(()),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Document {
            r#type: self.kind.urn(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            errors: self.field.as_ref().map(|field| [field]),
        }
        .serialize(serializer)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponseBuilder::new(self.status_code());
        if self.status_code() == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if self.kind == Kind::Unauthorized {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        response
            .insert_header((header::CONTENT_TYPE, MEDIA_TYPE))
            .json(self)
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::ledger::LedgerError;
    use crate::session::{HolderId, RunId, SessionId};

    async fn document(problem: &Problem) -> Value {
        let body = to_bytes(problem.error_response().into_body()).await;
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    #[actix_web::test]
    async fn a_field_at_fault_is_named() {
        let problem = Problem::from(InvalidField::new("metadata", "must be smaller"));
        let expected = json!({
            "type": "urn:session-supervisor:problem:invalid-field",
            "title": "a field is invalid",
            "status": 422,
            "detail": "the request has an invalid field",
            "errors": [{"pointer": "#/metadata", "detail": "must be smaller"}],
        });
        assert_eq!(document(&problem).await, expected);
    }

    #[actix_web::test]
    async fn a_refusal_without_a_field_has_no_errors() {
        let problem = Problem::from(Error::TooManySessions { max: 7 });
        let document = document(&problem).await;
        assert_eq!(document["status"], 429);
        assert!(document["detail"].as_str().unwrap().contains('7'));
        assert_eq!(document.get("errors"), None);
    }

    #[test]
    fn every_error_of_the_handle_has_its_type() {
        let id = SessionId::new("a").unwrap();
        let holder = HolderId::new("h").unwrap();
        let elsewhere = Error::HeldElsewhere {
            id: id.clone(),
            holder: None,
        };
        let run_id = RunId::new("1").unwrap();
        let invalid = InvalidField::new("key", "must be text");
        let cases = [
            (Error::Invalid(invalid), "invalid-field", 422),
            (Error::Settings("no".into()), "invalid-field", 422),
            (Error::UnknownPlugin("p".into()), "not-found", 404),
            (elsewhere, "held-elsewhere", 409),
            (Error::RunIsOver { holder, run_id }, "held-elsewhere", 409),
            (Error::NotActive(id), "not-active", 404),
            (Error::TooManySessions { max: 1 }, "too-many-sessions", 429),
            (Error::ShuttingDown, "shutting-down", 503),
            (Error::Stopped, "shutting-down", 503),
            (Error::Busy("many wait"), "busy", 503),
            (Error::Start("no thread".into()), "busy", 503),
            (Error::State("in use".into()), "busy", 503),
            (
                LedgerError::new("disk full").into(),
                "ledger-unavailable",
                503,
            ),
        ];
        for (error, name, status) in cases {
            assert_eq!(error.http_status(), status, "{name}");
            let problem = Problem::from(error);
            assert_eq!(problem.kind.name(), name);
            assert_eq!(problem.status_code().as_u16(), status, "{name}");
        }
    }

    #[test]
    fn only_a_503_says_when_to_try_again() {
        for (error, expected) in [
            (Error::ShuttingDown, true),
            (LedgerError::new("disk full").into(), true),
            (Error::TooManySessions { max: 1 }, false),
        ] {
            let response = Problem::from(error.clone()).error_response();
            let headers = response.headers();
            assert_eq!(headers.contains_key("retry-after"), expected, "{error}");
            let content_type = headers.get("content-type").unwrap();
            assert_eq!(content_type, "application/problem+json");
        }
    }
}
