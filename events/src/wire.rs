//! Reading any JSON form of an event, and what its fields may hold.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use ledger::endpoint::check_method;
use ledger::report;
use ledger::text::{self, Invalid};
use ledger::{Endpoint, Money, Month, StatusCode, Units, UserId};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::account::{AccountAction, AccountFact, AuthFailed};
use crate::actor::Actor;
use crate::api_key::ApiKeyTerms;
use crate::body::{ApiCalled, Body, OwnCalls};
use crate::error::{EventError, EventErrorKind};
use crate::event::{Event, MAX_EVENT_BYTES, parse_hyphenated};
use crate::event_type;
use crate::token::TokenStored;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    subject: Option<Cow<'a, str>>,
    #[serde(with = "ledger::time::rfc3339")]
    time: DateTime<Utc>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Fields that builds before the first release wrote into the log in the clear.
#[derive(Deserialize)]
struct EarlierFields {
    #[serde(default)]
    ip_address: Option<IgnoredAny>,
    #[serde(default)]
    user_agent: Option<IgnoredAny>,
}

/// The type alone, for the error of an event whose envelope does not hold.
#[derive(Deserialize)]
struct TypeOnly<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

/// Reads one event from its JSON, whatever its layout.
pub(crate) fn read(json: &str) -> Result<Event<'_>, EventError> {
    if json.len() > MAX_EVENT_BYTES {
        return Err(fail(type_of(json), EventErrorKind::TooLarge, None));
    }
    let envelope: Envelope<'_> = serde_json::from_str(json)
        .map_err(|source| fail(type_of(json), EventErrorKind::Envelope, Some(source)))?;
    if envelope.specversion != "1.0" {
        return Err(fail(envelope.r#type.into_owned(), EventErrorKind::Envelope, None));
    }
    let subject = match envelope.subject {
        Some(subject) => match parse_hyphenated(subject.as_bytes()) {
            Some(uuid) => Some(UserId::new(uuid)),
            None => {
                return Err(invalid(
                    &envelope.r#type,
                    "subject",
                    "invalid_uuid",
                    "a subject is a user's UUID",
                ));
            }
        },
        None => None,
    };
    let body = read_body(envelope.r#type, envelope.data)?;
    let event = Event { id: envelope.id, source: envelope.source, subject, time: envelope.time, body };
    check(&event)?;
    Ok(event)
}

fn read_body<'a>(event_type: Cow<'a, str>, data: Option<&'a RawValue>) -> Result<Body<'a>, EventError> {
    fn typed<'a, T: Deserialize<'a>>(event_type: &str, data: Option<&'a RawValue>) -> Result<T, EventError> {
        serde_json::from_str(data.map_or("null", RawValue::get))
            .map_err(|source| fail(event_type.to_owned(), EventErrorKind::Data, Some(source)))
    }
    Ok(match event_type.as_ref() {
        event_type::API_CALLED => {
            let call = typed(&event_type, data)?;
            let EarlierFields { ip_address, user_agent } = typed(&event_type, data)?;
            if ip_address.or(user_agent).is_some() {
                return Err(fail(event_type.into_owned(), EventErrorKind::EarlierBuild, None));
            }
            Body::ApiCalled(call)
        }
        event_type::CALL_COMPLETED => Body::CallCompleted(typed(&event_type, data)?),
        event_type::LIMIT_REJECTED => Body::LimitRejected(typed(&event_type, data)?),
        event_type::OWN_CALLS => Body::OwnCalls(typed(&event_type, data)?),
        event_type::LIMIT_THRESHOLD_CROSSED => Body::LimitThresholdCrossed(typed(&event_type, data)?),
        event_type::USAGE_RESET => Body::UsageReset(typed(&event_type, data)?),
        event_type::PLAN_CHANGED => Body::PlanChanged(typed(&event_type, data)?),
        event_type::PERIOD_CLOSED => Body::PeriodClosed(typed(&event_type, data)?),
        event_type::CLAIMS_TURNED => Body::ClaimsTurned(typed(&event_type, data)?),
        event_type::GAP_ACCEPTED => Body::GapAccepted(typed(&event_type, data)?),
        event_type::TOKEN_STORED => Body::TokenStored(typed(&event_type, data)?),
        event_type::TOKEN_DELETED => Body::TokenDeleted(typed(&event_type, data)?),
        event_type::TOKEN_USED => Body::TokenUsed(typed(&event_type, data)?),
        event_type::USER_ERASED => Body::UserErased(typed(&event_type, data)?),
        event_type::API_KEY_CREATED => Body::ApiKeyCreated(typed(&event_type, data)?),
        event_type::API_KEY_CHANGED => Body::ApiKeyChanged(typed(&event_type, data)?),
        event_type::API_KEY_ROTATED => Body::ApiKeyRotated(typed(&event_type, data)?),
        event_type::API_KEY_REVOKED => Body::ApiKeyRevoked(typed(&event_type, data)?),
        event_type::AUTH_FAILED => Body::AuthFailed(typed(&event_type, data)?),
        _ => match AccountAction::of_type(&event_type) {
            Some(action) => Body::Account(action, typed(&event_type, data)?),
            None => unknown(event_type),
        },
    })
}

/// Splits a type into name and version; a type that ends in no `.v<n>` is version 0 of itself.
pub(crate) fn unknown(event_type: Cow<'_, str>) -> Body<'_> {
    let split = event_type.rsplit_once(".v").and_then(|(name, digits)| {
        let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
        let version: u32 = digits.parse().ok()?;
        canonical.then_some((name.len(), version))
    });
    match split {
        Some((length, version)) => {
            let event_type = match event_type {
                Cow::Borrowed(text) => Cow::Borrowed(&text[..length]),
                Cow::Owned(text) => Cow::Owned(text[..length].to_owned()),
            };
            Body::Unknown { event_type, version }
        }
        None => Body::Unknown { event_type, version: 0 },
    }
}

/// Checks that the tables can hold it and the domain allows it, so that nothing of a decoded event can fail later.
pub(crate) fn check(event: &Event<'_>) -> Result<(), EventError> {
    let fails = |field: &'static str| {
        move |error: Invalid| {
            let kind = EventErrorKind::Invalid { field, code: error.code, detail: error.detail };
            EventError::new(&event.body, kind)
        }
    };
    check_name("an id", &event.id).map_err(fails("id"))?;
    check_name("a source", &event.source).map_err(fails("source"))?;
    check_time(event.time).map_err(fails("time"))?;
    if event.subject.is_none() && !event.body.is_ledger_wide() && !matches!(event.body, Body::Unknown { .. })
    {
        return Err(fails("subject")(Invalid::new("missing", "an event of a user must have a subject")));
    }
    match &event.body {
        Body::ApiCalled(call) => check_call(call).map_err(|(field, error)| fails(field)(error)),
        Body::CallCompleted(body) => {
            StatusCode::new(body.status_code.into()).map_err(fails("data.status_code"))?;
            check_time(body.call_time).map_err(fails("data.call_time"))?;
            check_millis(body.response_time_ms).map_err(fails("data.response_time_ms"))?;
            check_size(body.response_size).map_err(fails("data.response_size"))
        }
        Body::LimitRejected(body) => {
            check_count(Some(body.count)).map_err(fails("data.count"))?;
            check_time(body.window_start).map_err(fails("data.window_start"))
        }
        Body::OwnCalls(body) => check_own_calls(body).map_err(|(field, error)| fails(field)(error)),
        Body::LimitThresholdCrossed(body) => {
            check_count(Some(body.used)).map_err(fails("data.used"))?;
            check_count(Some(body.limit)).map_err(fails("data.limit"))
        }
        Body::UsageReset(body) => {
            check_reason(&body.reason).map_err(fails("data.reason"))?;
            check_actor(&body.actor).map_err(fails("data.actor"))
        }
        Body::PlanChanged(body) => {
            check_count(body.monthly_api_limit).map_err(fails("data.monthly_api_limit"))?;
            check_count(body.analyze_limit).map_err(fails("data.analyze_limit"))?;
            check_time(body.effective_at).map_err(fails("data.effective_at"))?;
            check_price(body.price_monthly).map_err(fails("data.price_monthly"))?;
            body.reason.as_deref().map_or(Ok(()), check_reason).map_err(fails("data.reason"))?;
            let source_event_id = body.source_event_id.as_deref();
            source_event_id
                .map_or(Ok(()), |id| check_name("an id", id))
                .map_err(fails("data.source_event_id"))?;
            check_actor(&body.actor).map_err(fails("data.actor"))
        }
        Body::ClaimsTurned(body) => check_count(Some(body.generation)).map_err(fails("data.generation")),
        Body::GapAccepted(body) => {
            check_count(Some(body.seq_to)).map_err(fails("data.seq_to"))?;
            if body.seq_from == 0 || body.seq_from > body.seq_to {
                return Err(fails("data.seq_from")(Invalid::new(
                    "invalid_range",
                    "a range runs from 1 or later up",
                )));
            }
            check_reason(&body.reason).map_err(fails("data.reason"))?;
            check_actor(&body.actor).map_err(fails("data.actor"))
        }
        Body::TokenStored(_)
        | Body::TokenDeleted(_)
        | Body::TokenUsed(_)
        | Body::UserErased(_)
        | Body::ApiKeyCreated(_)
        | Body::ApiKeyChanged(_)
        | Body::ApiKeyRotated(_)
        | Body::ApiKeyRevoked(_)
        | Body::Account(..) => check_audited(&event.body).map_err(|(field, error)| fails(field)(error)),
        Body::AuthFailed(body) => check_failed(body).map_err(|(field, error)| fails(field)(error)),
        Body::PeriodClosed(_) | Body::Unknown { .. } => Ok(()),
    }
}

/// As long as the tables hold, and no more: what the edges refuse beside that may stand in a log that is older than the
/// rule, and is projected for ever as it was.
fn check_name(what: &str, text: &str) -> Result<(), Invalid> {
    text::check_text(what, text, text::MAX_NAME_BYTES)
}

fn check_call(call: &ApiCalled<'_>) -> Result<(), (&'static str, Invalid)> {
    let at = |field: &'static str| move |error: Invalid| (field, error);
    text::check_text("an endpoint", &call.endpoint, Endpoint::MAX_BYTES).map_err(at("data.endpoint"))?;
    if let Some(method) = &call.method {
        check_method(method).map_err(at("data.method"))?;
    }
    if let Some(status) = call.status_code {
        StatusCode::new(status.into()).map_err(at("data.status_code"))?;
    }
    check_millis(call.response_time_ms).map_err(at("data.response_time_ms"))?;
    check_size(call.request_size).map_err(at("data.request_size"))?;
    check_size(call.response_size).map_err(at("data.response_size"))?;
    Units::new(call.units.into()).map_err(at("data.units"))?;
    call.actor.as_ref().map_or(Ok(()), check_actor).map_err(at("data.actor"))
}

fn check_own_calls(body: &OwnCalls<'_>) -> Result<(), (&'static str, Invalid)> {
    let at = |field: &'static str| move |error: Invalid| (field, error);
    check_time(body.window_start).map_err(at("data.window_start"))?;
    if body.counts.len() > OwnCalls::MAX_COUNTS {
        return Err(("data.counts", Invalid::new("too_many", "an event has at most 37 counts")));
    }
    for count in &body.counts {
        check_name("a route", &count.route).map_err(at("data.counts.route"))?;
        check_count(Some(count.calls)).map_err(at("data.counts.calls"))?;
    }
    Ok(())
}

fn check_stored(body: &TokenStored<'_>) -> Result<(), (&'static str, Invalid)> {
    let at = |field: &'static str| move |error: Invalid| (field, error);
    check_name("a mask", &body.masked).map_err(at("data.masked"))?;
    check_name("a fingerprint", &body.fingerprint).map_err(at("data.fingerprint"))?;
    check_token(&body.token_type, &body.actor)
}

/// The links of a user's audit chain.
fn check_audited(body: &Body<'_>) -> Result<(), (&'static str, Invalid)> {
    let actor = match body {
        Body::TokenStored(body) => return check_stored(body),
        Body::TokenDeleted(body) => return check_token(&body.token_type, &body.actor),
        Body::TokenUsed(body) => {
            check_name("a purpose", &body.purpose).map_err(|error| ("data.purpose", error))?;
            return check_token(&body.token_type, &body.actor);
        }
        Body::ApiKeyCreated(body) | Body::ApiKeyChanged(body) => return check_terms(body),
        Body::ApiKeyRotated(body) => {
            check_time(body.earlier_end_at).map_err(|error| ("data.earlier_end_at", error))?;
            &body.actor
        }
        Body::ApiKeyRevoked(body) => &body.actor,
        Body::Account(_, body) => {
            let method = body.method.as_deref();
            let check = |method| text::check_text("a method", method, AccountFact::MAX_METHOD_BYTES);
            method.map_or(Ok(()), check).map_err(|error| ("data.method", error))?;
            &body.actor
        }
        Body::UserErased(body) => &body.actor,
        _ => return Ok(()),
    };
    check_actor(actor).map_err(|error| ("data.actor", error))
}

fn check_failed(body: &AuthFailed<'_>) -> Result<(), (&'static str, Invalid)> {
    let at = |field: &'static str| move |error: Invalid| (field, error);
    check_time(body.window_start).map_err(at("data.window_start"))?;
    if body.counts.len() > AuthFailed::MAX_NAMED {
        return Err(("data.counts", Invalid::new("too_many", "an event has at most 64 counts")));
    }
    for count in &body.counts {
        check_name("a reason", &count.reason).map_err(at("data.counts.reason"))?;
        check_name("a network", &count.network).map_err(at("data.counts.network"))?;
        check_count(Some(count.failures)).map_err(at("data.counts.failures"))?;
    }
    check_count(Some(body.other)).map_err(at("data.other"))
}

fn check_terms(body: &ApiKeyTerms<'_>) -> Result<(), (&'static str, Invalid)> {
    let at = |field: &'static str| move |error: Invalid| (field, error);
    check_name("a role", &body.role).map_err(at("data.role"))?;
    if body.scopes.len() > ApiKeyTerms::MAX_SCOPES {
        return Err(("data.scopes", Invalid::new("too_many", "a key has at most 32 scopes")));
    }
    for scope in &body.scopes {
        check_name("a scope", scope).map_err(at("data.scopes"))?;
    }
    check_count(body.budget).map_err(at("data.budget"))?;
    body.expires_at.map_or(Ok(()), check_time).map_err(at("data.expires_at"))?;
    check_actor(&body.actor).map_err(at("data.actor"))
}

fn check_token(token_type: &str, actor: &Actor<'_>) -> Result<(), (&'static str, Invalid)> {
    check_name("a token's type", token_type).map_err(|error| ("data.token_type", error))?;
    check_actor(actor).map_err(|error| ("data.actor", error))
}

fn check_actor(actor: &Actor<'_>) -> Result<(), Invalid> {
    check_name("an actor's id", &actor.id)
}

fn check_reason(reason: &str) -> Result<(), Invalid> {
    text::check_text("a reason", reason, text::MAX_REASON_BYTES)
}

fn check_time(time: DateTime<Utc>) -> Result<(), Invalid> {
    if Month::FIRST.start() <= time && time < Month::LAST.end() {
        return Ok(());
    }
    Err(Invalid::new("time_out_of_range", "a time must lie in the years 2000 to 9999"))
}

fn check_millis(millis: Option<u32>) -> Result<(), Invalid> {
    millis.map_or(Ok(()), |millis| report::response_time_ms(millis.into()).map(drop))
}

fn check_size(size: Option<u64>) -> Result<(), Invalid> {
    size.map_or(Ok(()), |size| report::size_bytes(size).map(drop))
}

fn check_price(price: Money) -> Result<(), Invalid> {
    if price.cents() >= 0 {
        return Ok(());
    }
    Err(Invalid::new("invalid_amount", "a price must not be negative"))
}

/// Numbers that the tables keep in 63 bits.
fn check_count(count: Option<u64>) -> Result<(), Invalid> {
    if count.is_none_or(|count| i64::try_from(count).is_ok()) {
        return Ok(());
    }
    Err(Invalid::new("too_large", "a number must be at most 9223372036854775807"))
}

fn type_of(json: &str) -> String {
    serde_json::from_str::<TypeOnly<'_>>(json)
        .ok()
        .map(|only| only.r#type)
        .filter(|event_type| check_name("a type", event_type).is_ok())
        .map_or_else(|| "unknown".to_owned(), Cow::into_owned)
}

fn fail(event_type: String, kind: EventErrorKind, source: Option<serde_json::Error>) -> EventError {
    EventError { event_type, kind, source }
}

fn invalid(event_type: &str, field: &'static str, code: &'static str, detail: &str) -> EventError {
    fail(event_type.to_owned(), EventErrorKind::Invalid { field, code, detail: detail.to_owned() }, None)
}
