//! `POST /api/usage/events`: services report calls that happened.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use events::ActorKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::binding::{Carrier, carrier};
use super::call::{Reporter, TimeWindow};
use super::parse::{Item, MAX_ITEMS, ParseError, Profile, binary, parse};
use super::parts::Ingest;
use super::receipt::{ItemStatus, Receipt, ReceiptItem};
use super::schema::{CloudEvent, PlainEvents};
use crate::auth::{Principal, Role, User, needs};
use crate::facts::Writer;
use crate::http::extract::{Json, X_BACKFILL};
use crate::http::idempotency::{Idempotency, KeyHeader, KeyedRequest};
use crate::http::problem::{Code, FieldError, Problem, ProblemBody};

/// What became of the request's items.
#[derive(Debug, Serialize, ToSchema)]
struct EventsBody {
    accepted: usize,
    /// Known at once; others are still counted once.
    duplicates: usize,
    rejected: usize,
    /// In the request's order.
    items: Vec<ReceiptItem>,
    /// Where the log holds all of them, for `Ledger-Min-Seq`; null when every item was rejected.
    position: Option<String>,
}

/// Reports calls that happened
#[utoipa::path(
    post, path = "/api/usage/events", tag = "usage",
    description = "CloudEvents (one, a batch, or in binary mode) or plain JSON of the same fields, at most 1,000. \
        `data` holds the fields\nof a call: `endpoint`, and if known `method`, `status_code`, `response_time_ms`, \
        `ip_address`, `user_agent`,\n`request_size`, `response_size`, `units`. A retry of the same request is safe: \
        an id counts once for its user and\nsource, whatever its time, for `DEDUPE_HORIZON` (35 days or more), and with the \
        same time for ever.\n\nAn item of a user whose data key does not open is rejected \
        with `encryption_key_missing` or `internal`: nothing is wrong\nwith it, and it may be sent again. A request \
        with nothing else in it is refused as a whole.\n\nWhile figures are more than `MAX_LAG` behind, a request is \
        answered 429 as a whole before anything of it is\ntaken in: first those of reporters (the accounts that sign \
        requests) above their fair share of what is not\ncounted yet, then all. Nothing is lost: send it again after \
        `Retry-After` seconds.",
    params(("X-Backfill" = Option<bool>, Header, description = "true: times from 2000-01-01 on are taken (service, admin)"), KeyHeader),
    request_body(description = "One event or up to 1,000, at most 8 MiB; packed by gzip or zstd or not", content(
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
        (PlainEvents = "application/json"),
    )),
    responses(
        (status = 202, description = "On disk, as far as accepted", body = EventsBody),
        (status = 403, description = "The role may not", body = ProblemBody),
        (status = 413, description = "More than 1,000 items, or 8 MiB packed or unpacked", body = ProblemBody),
        (status = 415, description = "Another Content-Type or Content-Encoding", body = ProblemBody),
        (status = 422, description = "No item could be accepted", body = ProblemBody),
        (status = 429, description = "Figures are behind, nothing was taken in; see `Retry-After`", body = ProblemBody),
        (status = 503, description = "The log cannot be written, or an encryption key is missing", body = ProblemBody),
    )
)]
pub(super) async fn events(
    caller: User<needs::Ingest>,
    State(ingest): State<Ingest>,
    State(idempotency): State<Idempotency>,
    request: Request,
) -> Result<Response, Problem> {
    take_in(ingest, &idempotency, &caller, request, Profile::Call, answer).await
}

/// Takes in what the request reports, once for its `Idempotency-Key`, and answers what `answer` makes of the receipt.
pub(super) async fn take_in(
    ingest: Ingest,
    idempotency: &Idempotency,
    caller: &Principal,
    request: Request,
    profile: Profile,
    answer: fn(&Writer, Receipt) -> Response,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let carrier = carrier(&parts.headers)?;
    let reporter = reporter(&ingest, caller, &parts.headers)?;
    let body = ingest.unpacker.read(&parts.headers, body).await?;
    // Before anything is asked of a database that is behind already.
    ingest.intake.check_turn(&reporter)?;
    let keyed = KeyedRequest::of(&parts, &body)?;
    let work = move |_| async move {
        let items = read(carrier, profile, &parts.headers, &body)?;
        let receipt = ingest.intake.take(&reporter, items).await?;
        Ok(answer(&ingest.writer, receipt))
    };
    idempotency.run(caller.key_owner(), keyed, work).await
}

fn answer(writer: &Writer, receipt: Receipt) -> Response {
    let seq = receipt.seq();
    let body = EventsBody {
        accepted: receipt.count(ItemStatus::Accepted),
        duplicates: receipt.count(ItemStatus::Duplicate),
        rejected: receipt.count(ItemStatus::Rejected),
        position: seq.map(|seq| writer.positions().encode(seq)),
        items: receipt.into_items(),
    };
    match seq {
        Some(seq) => (StatusCode::ACCEPTED, writer.at(seq), Json(body)).into_response(),
        None => all_rejected(&body).into_response(),
    }
}

/// 422 with the same members as the 202.
fn all_rejected(body: &EventsBody) -> Problem {
    let errors = body.items.iter().filter_map(|item| placed(item, body.items.len()));
    Problem::validation(errors.take(100).collect())
        .with_member("accepted", 0)
        .with_member("duplicates", 0)
        .with_member("rejected", body.rejected)
        .with_member("items", json!(body.items))
        .with_member("position", json!(null))
}

/// An item's error, with the item's place in the body.
pub(super) fn placed(item: &ReceiptItem, items: usize) -> Option<FieldError> {
    let mut error = item.error.clone()?;
    if let Some(pointer) = error.pointer.take_if(|_| items > 1) {
        error.pointer = Some(format!("/{}{pointer}", item.index));
    }
    Some(error)
}

/// Reads what the request carries.
fn read<'a>(
    carrier: Carrier,
    profile: Profile,
    headers: &HeaderMap,
    body: &'a [u8],
) -> Result<Vec<Item<'a>>, Problem> {
    let items = match carrier {
        Carrier::Headers => binary(headers, body, profile).map(|item| vec![item]),
        Carrier::Body(form) => parse(body, form, profile),
    };
    items.map_err(|error| refused(&error))
}

fn refused(error: &ParseError) -> Problem {
    match error {
        ParseError::Malformed { .. } => Problem::malformed(Code::MalformedJson, sentence(error)),
        ParseError::WrongKind(_) => Problem::malformed(Code::MalformedEvent, sentence(error)),
        ParseError::Empty => FieldError::at("", "empty", sentence(error)).into(),
        ParseError::TooMany => Problem::too_large(format!("A request may hold at most {MAX_ITEMS} events.")),
    }
}

fn sentence(error: &ParseError) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters
        .next()
        .map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), characters.as_str()))
}

/// The caller as a reporter: what it may report.
fn reporter(ingest: &Ingest, caller: &Principal, headers: &HeaderMap) -> Result<Reporter, Problem> {
    let kind = match caller.role {
        Role::Service => ActorKind::Service,
        Role::Admin => ActorKind::Admin,
        Role::User if ingest.takes_users_own => ActorKind::User,
        Role::User => return Err(Problem::forbidden("Reporting calls needs the role service.")),
    };
    let window = match headers.get(X_BACKFILL).map(HeaderValue::as_bytes) {
        None => TimeWindow::Live,
        Some(value) if value.eq_ignore_ascii_case(b"false") => TimeWindow::Live,
        Some(value) if value.eq_ignore_ascii_case(b"true") => TimeWindow::Backfill,
        Some(_) => {
            return Err(Problem::malformed(Code::MalformedHeader, "X-Backfill must be true or false."));
        }
    };
    if window == TimeWindow::Backfill && caller.role == Role::User {
        return Err(Problem::forbidden("X-Backfill needs the role service or admin."));
    }
    let key = caller.key().map(|key| key.id);
    Ok(Reporter { user: caller.user_id, kind, may_name_others: caller.role != Role::User, window, key })
}
