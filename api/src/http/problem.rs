//! RFC 9457 problem details: the one form in which this service says no.
//!
//! A handler returns a [`Problem`]; the outermost layer ([`crate::http::envelope::Envelope`]) writes its body, because
//! only there are the request's id and path known. Errors know no HTTP: those of log, database and data keys are mapped
//! here, those of capabilities in one place above them. Their chain is logged once, never sent.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_keys::KeysError;
use ledger::Invalid;
use nats::PublishError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Problem type of a call beyond the plan's limit.
pub const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// Problem type of a caller that is asked to slow down; nothing of its plan is used up.
pub const TEMPORARY_REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

/// Problem type whose status says it all. Its title is then that of the status (RFC 9457 §4.2.1).
const ABOUT_BLANK: &str = "about:blank";

/// Media type of every error body.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Stable, machine-readable cause. Clients switch on it; a code is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the body is not JSON, or ends too soon.
    MalformedJson,
    /// 400: the query string or path cannot be decoded.
    MalformedUri,
    /// 400: a header has a form that it must not have.
    MalformedHeader,
    /// 400: the body cannot be unpacked as its Content-Encoding says.
    MalformedEncoding,
    /// 400: a CloudEvent, or a batch of them, is not one.
    MalformedEvent,
    /// 400: the cursor was not issued by this service for this list.
    MalformedCursor,
    /// 400: the position was not issued by this service.
    UnknownPosition,
    /// 401: no credential, or none that is valid now.
    Unauthorized,
    /// 403: the role may not do this.
    Forbidden,
    /// 403: the account is suspended.
    AccountSuspended,
    /// 403: the credential was issued too long ago for this, or does not say when.
    StaleCredential,
    /// 403: the second factor is to be shown, or set up, first.
    SecondFactorRequired,
    /// 403: the request does not show that a page of this site sent it.
    CrossSite,
    /// 403: the credential came over plain http.
    HttpsRequired,
    /// 404: there is no such thing for this caller.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the request's body did not arrive in time.
    RequestTimeout,
    /// 409: the thing's state forbids it.
    Conflict,
    /// 409: the stored token is not as it was sealed, and does not open.
    TokenUnreadable,
    /// 409: the user was erased, for ever.
    SubjectErased,
    /// 409: the first request with this Idempotency-Key is still running.
    IdempotencyKeyInUse,
    /// 413: the body, or the number of its items, is too large.
    TooLarge,
    /// 415: the Content-Type is not one that this endpoint reads.
    UnsupportedMediaType,
    /// 415: the Content-Encoding is not one that this endpoint reads; see the header Accept-Encoding.
    UnsupportedEncoding,
    /// 422: well-formed, but a field or parameter is wrong; see `errors`.
    ValidationFailed,
    /// 422: the Idempotency-Key was used with another request.
    IdempotencyKeyReused,
    /// 429: the plan's limit is reached.
    QuotaExceeded,
    /// 429: slow down; unrelated to the plan.
    RateLimited,
    /// 500: a fault of this service.
    Internal,
    /// 503: a dependency is away, or busy.
    Unavailable,
    /// 503: the user's data key is wrapped under an encryption key that is not configured.
    EncryptionKeyMissing,
    /// 503: the request took too long.
    Timeout,
}

/// One wrong field (`pointer`, RFC 6901, into the body) or parameter (`parameter`: query, path or header).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the request's body.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pointer: Option<String>,
    /// Name of the query or path parameter, or of the header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parameter: Option<String>,
    /// Stable cause, such as `unknown_field`, `missing`, `invalid`, `out_of_range`.
    pub code: Cow<'static, str>,
    /// What is wrong, for a person.
    pub detail: String,
}

impl FieldError {
    /// A wrong field of the body.
    pub fn at(
        pointer: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, code: code.into(), detail: detail.into() }
    }

    /// A field of the body whose value its domain type refused.
    pub fn invalid(pointer: impl Into<String>, error: &Invalid) -> Self {
        Self::at(pointer, error.code, error.detail.clone())
    }

    /// A parameter whose value its domain type refused.
    pub fn invalid_parameter(name: impl Into<String>, error: &Invalid) -> Self {
        Self::parameter(name, error.code, error.detail.clone())
    }

    /// A wrong query parameter, path parameter or header.
    pub fn parameter(
        name: impl Into<String>,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self { pointer: None, parameter: Some(name.into()), code: code.into(), detail: detail.into() }
    }
}

/// What the body of an error looks like, for the OpenAPI document.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// URI of the problem's type; `about:blank` means that the status says it all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of a type.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This occurrence, for a person.
    pub detail: String,
    /// Path of the request.
    pub instance: String,
    /// Stable cause.
    pub code: Code,
    /// The same as `X-Request-Id`.
    pub request_id: String,
    /// Present when a field or parameter is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
}

/// A refusal on its way to the client. Boxed, so that a handler's `Result` stays small.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    record: Record,
    headers: HeaderMap,
    /// For the log only.
    cause: Option<String>,
}

/// The part of a problem that is the same on a replay (`Idempotency-Key`).
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: Cow<'static, str>,
    title: Cow<'static, str>,
    code: Code,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    errors: Vec<FieldError>,
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl Problem {
    /// A problem whose status says it all. Prefer the named constructors below.
    pub fn new(status: StatusCode, code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            record: Record {
                kind: Cow::Borrowed(ABOUT_BLANK),
                title: phrase(status),
                code,
                detail: detail.into(),
                errors: Vec::new(),
                members: Map::new(),
            },
            headers: HeaderMap::new(),
            cause: None,
        }))
    }

    /// 400. Use when the request cannot be read at all: JSON, a header, a cursor.
    pub fn malformed(code: Code, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401, with the same body for every cause: a caller learns nothing about why.
    pub fn unauthorized() -> Self {
        Self::not_signed_in("A valid bearer token is required.")
    }

    /// 401 of a sign-in.
    pub fn not_signed_in(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, detail)
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"usage-ledger\""))
    }

    /// 403. Use when the role may not do this, whoever it is done for.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Forbidden, detail)
    }

    /// 404. Also for another user's thing: its existence is nobody else's business.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, "There is nothing here for you.")
    }

    /// 409. Use when the thing's state forbids it; `detail` says which state.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, Code::Conflict, detail)
    }

    /// 409. Use when a user who was erased is named where something would be done for them.
    pub fn subject_erased() -> Self {
        Self::new(StatusCode::CONFLICT, Code::SubjectErased, "This user was erased, for ever.")
    }

    /// 413. `detail` names the limit that was passed.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, detail)
    }

    /// 422. Use when the request could be read, but a field or parameter is wrong. Lists every one that is known.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => only.detail.clone(),
            more => format!("{} fields are wrong.", more.len()),
        };
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::ValidationFailed, detail);
        problem.0.record.errors = errors;
        problem
    }

    /// 429 that has nothing to do with the plan: the caller is asked to come back after `retry_after_s` seconds.
    pub fn rate_limited(detail: impl Into<String>, retry_after_s: u64) -> Self {
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        problem.0.record.kind = Cow::Borrowed(TEMPORARY_REDUCED_CAPACITY);
        problem.0.record.title = Cow::Borrowed("Temporary reduced capacity");
        problem
    }

    /// 503. `dependency` is `log` or `database`: what the client can do about it is to wait.
    pub fn unavailable(dependency: &'static str) -> Self {
        Self::busy(format!("The {dependency} cannot be reached; try again."))
    }

    /// 503 for any other reason that passes by itself.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 503: the request took longer than it may.
    pub fn timed_out() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Timeout, "The request took too long.")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 500. `error` is logged with its chain; the client sees its request id only.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::fault(Chain(error).to_string())
    }

    /// 500. `cause` is logged; the client sees its request id only.
    pub fn fault(cause: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Code::Internal,
            "A fault of this service; its log has more under this request id.",
        )
        .because(cause)
    }

    /// Adds what the log should say about the cause. The client never sees it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Gives the problem a type of its own.
    #[must_use]
    pub fn with_type(mut self, kind: &'static str, title: &'static str) -> Self {
        self.0.record.kind = Cow::Borrowed(kind);
        self.0.record.title = Cow::Borrowed(title);
        self
    }

    /// The same with another status, for a client that knows few.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        if self.0.record.kind == ABOUT_BLANK {
            self.0.record.title = phrase(status);
        }
        self
    }

    /// Adds an extension member, such as `meter`. Members of RFC 9457 cannot be replaced by it.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        debug_assert!(!matches!(
            name,
            "type" | "title" | "status" | "detail" | "instance" | "code" | "errors"
        ));
        self.0.record.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Adds several headers to the answer.
    #[must_use]
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.0.headers.extend(headers);
        self
    }

    /// HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Stable cause.
    pub fn code(&self) -> Code {
        self.0.record.code
    }

    /// The wrong fields, if any.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.record.errors
    }

    /// This occurrence, for a person.
    pub fn detail(&self) -> &str {
        &self.0.record.detail
    }

    /// The cause, for the log only.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The body, as sent.
    pub(crate) fn render(&self, instance: &str, request_id: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            status: u16,
            instance: &'a str,
            request_id: &'a str,
            #[serde(flatten)]
            record: &'a Record,
        }
        let record = &self.0.record;
        let body = Body { status: self.0.status.as_u16(), instance, request_id, record };
        // Strings, numbers and JSON values always serialise; an empty body would still carry the status.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The part of it that an idempotency record keeps.
    pub(crate) fn to_record(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0.record).unwrap_or_default()
    }

    /// The counterpart of [`Problem::to_record`].
    pub(crate) fn from_record(status: StatusCode, record: &[u8]) -> Result<Self, serde_json::Error> {
        let record = serde_json::from_slice(record)?;
        Ok(Self(Box::new(Parts { status, record, headers: HeaderMap::new(), cause: None })))
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::validation(vec![error])
    }
}

impl From<store::Error> for Problem {
    /// Maps what a handler did not expect of the database. Expected refusals (a taken name) are the handler's to map.
    fn from(error: store::Error) -> Self {
        if error.is_unavailable() {
            Self::unavailable("database").because(Chain(&error).to_string())
        } else {
            Self::internal(&error)
        }
    }
}

impl From<PublishError> for Problem {
    /// All of them pass, so the client may try again; the log of this process says which it was. After `Unknown` the
    /// event may have been recorded: a retry with an `Idempotency-Key`, or with the client's own event id, counts once.
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::QueueFull => Self::busy("Too many calls wait for the log; try again."),
            PublishError::TooLarge { .. } => Self::too_large("The event is too large to be recorded."),
            PublishError::Closed => Self::busy("This instance is shutting down; try again."),
            PublishError::Unknown => {
                Self::busy("The log did not confirm the write in time; it may have been recorded.")
                    .because(error.to_string())
            }
            PublishError::Unavailable | PublishError::LogWentBackwards => {
                Self::unavailable("log").because(error.to_string())
            }
        }
    }
}

impl From<KeysError> for Problem {
    fn from(error: KeysError) -> Self {
        if let Some(kid) = error.missing_key() {
            let detail = format!("The encryption key {kid} is not configured.");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::EncryptionKeyMissing, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        match error {
            KeysError::Store(error) => error.into(),
            // The account went while the request was under way.
            KeysError::NoAccount => Self::unauthorized(),
            other => Self::internal(&other),
        }
    }
}

impl IntoResponse for Problem {
    /// The body is still empty here; the envelope fills it in.
    fn into_response(mut self) -> Response {
        let mut response = self.0.status.into_response();
        *response.headers_mut() = std::mem::take(&mut self.0.headers);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.extensions_mut().insert(self);
        response
    }
}

/// The status's phrase, as RFC 9110 has it.
fn phrase(status: StatusCode) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        other => other.canonical_reason().unwrap_or("Error"),
    })
}

/// Displays an error with its sources, for the one place where it is logged.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
