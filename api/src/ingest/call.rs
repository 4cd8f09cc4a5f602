//! One reported call: what it must be, and the event that it becomes.

use std::borrow::Cow;
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use data_keys::KeysError;
use events::{Actor, ActorKind, ApiCalled, Body, Event, Personal, is_reserved_source};
use ledger::{Classified, Endpoint, Invalid, KeyId, Method, Month, Rules, StatusCode, Units, UserId, text};
use store::identity::users::{Account, AccountStatus};
use uuid::Uuid;
use vault::DataKey;

use super::draft::{Draft, EndpointDraft};
use crate::http::problem::FieldError;
use crate::metering::sealer::{self, SealError};

/// The most that a client's clock may be ahead of ours.
pub(super) const MAX_AHEAD: TimeDelta = TimeDelta::minutes(5);
/// The greatest age of a call when it is reported. Its claim is remembered for as long at least, so only an older one
/// may have outlived it.
pub(super) const MAX_AGE: TimeDelta = TimeDelta::days(35);
/// The source of a call that names none.
const DEFAULT_SOURCE: &str = "api";

/// The client that reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The caller; calls without a subject are its own.
    pub user: UserId,
    /// Role in which it acts, and thus what is recorded of it; `User` and `Operator` are not.
    pub kind: ActorKind,
    /// True when it may report for others.
    pub may_name_others: bool,
    /// Times that are taken.
    pub window: TimeWindow,
    /// The API key with which it reports, if it does.
    pub key: Option<KeyId>,
}

impl Reporter {
    /// The API key of a call of this user: what a service reports of others came with no key of theirs.
    pub(super) fn key_of(&self, user: UserId) -> Option<KeyId> {
        self.key.filter(|_| self.user == user)
    }

    /// The caller's own account, which it may use.
    pub(super) fn account(&self) -> Account {
        Account { user_id: self.user, status: AccountStatus::Active, used_by_admin: false, is_admin: false }
    }
}

/// Times that a report may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeWindow {
    /// 35 days back to 5 minutes ahead.
    Live,
    /// 2000-01-01 to 5 minutes ahead.
    Backfill,
}

/// A valid call, its user's name not looked up yet.
#[derive(Debug)]
pub(super) struct Call<'a> {
    id: Cow<'a, str>,
    source: Cow<'a, str>,
    pub(super) subject: Option<Cow<'a, str>>,
    pub(super) time: DateTime<Utc>,
    endpoint: Endpoint,
    method: Option<Method>,
    status: Option<StatusCode>,
    response_time_ms: Option<u32>,
    ip_address: Option<IpAddr>,
    user_agent: Option<Cow<'a, str>>,
    request_size: Option<u64>,
    response_size: Option<u64>,
    units: Option<Units>,
}

/// Accepts a draft at `now`; its path is normalised as the rules are to match it.
pub(super) fn validate<'a>(
    draft: Draft<'a>,
    reporter: &Reporter,
    rules: &Rules,
    now: DateTime<Utc>,
) -> Result<Call<'a>, FieldError> {
    check("/id", text::check_name("an id", &draft.id))?;
    let source = draft.source.unwrap_or(Cow::Borrowed(DEFAULT_SOURCE));
    check("/source", text::check_name("a source", &source))?;
    if is_reserved_source(&source) && reporter.kind != ActorKind::Operator {
        return Err(FieldError::at(
            "/source",
            "reserved_source",
            "sources that begin with urn:usage-ledger: are ours",
        ));
    }
    if let Some(subject) = &draft.subject {
        check("/subject", text::check_name("a subject", subject))?;
    } else if reporter.may_name_others {
        return Err(FieldError::at(
            "/subject",
            "missing",
            "a subject is required: the user whose call it was",
        ));
    }
    let time = draft.time.unwrap_or(now);
    check_time(time, reporter.window, now)?;
    let call = draft.call;
    let endpoint = match &call.endpoint {
        EndpointDraft::Path(path) => check("/data/endpoint", rules.endpoint(path).map_err(Invalid::from))?,
        EndpointDraft::EventType(kind) => check("/type", Endpoint::for_event_type(kind))?,
    };
    Ok(Call {
        id: draft.id,
        source,
        subject: draft.subject,
        time,
        endpoint,
        method: call.method.map(|method| check("/data/method", Method::new(method))).transpose()?,
        status: call.status_code.map(|code| check("/data/status_code", StatusCode::new(code))).transpose()?,
        response_time_ms: call
            .response_time_ms
            .map(|ms| bounded("/data/response_time_ms", ms, i32::MAX.unsigned_abs().into()))
            .transpose()?
            .and_then(|ms| u32::try_from(ms).ok()),
        ip_address: call.ip_address.as_deref().map(address).transpose()?,
        user_agent: call.user_agent.map(clean).filter(|agent| !agent.is_empty()),
        request_size: call.request_size.map(|size| bounded_size("/data/request_size", size)).transpose()?,
        response_size: call
            .response_size
            .map(|size| bounded_size("/data/response_size", size))
            .transpose()?,
        units: call.units.map(|units| check("/data/units", Units::new(units))).transpose()?,
    })
}

fn check_time(time: DateTime<Utc>, window: TimeWindow, now: DateTime<Utc>) -> Result<(), FieldError> {
    let (from, says) = match window {
        TimeWindow::Live => (now - MAX_AGE, "35 days ago; with X-Backfill: true from 2000-01-01"),
        TimeWindow::Backfill => (Month::FIRST.start(), "2000-01-01"),
    };
    if from <= time && time <= now + MAX_AHEAD {
        return Ok(());
    }
    let detail = format!("the time must lie between {says}, and 5 minutes ahead");
    Err(FieldError::at("/time", "time_out_of_range", detail))
}

fn check<T>(pointer: &'static str, result: Result<T, Invalid>) -> Result<T, FieldError> {
    result.map_err(|error| FieldError::invalid(pointer, &error))
}

fn bounded_size(pointer: &'static str, size: u64) -> Result<u64, FieldError> {
    bounded(pointer, size, i64::MAX.unsigned_abs())
}

fn bounded(pointer: &'static str, number: u64, max: u64) -> Result<u64, FieldError> {
    if number <= max {
        return Ok(number);
    }
    Err(FieldError::at(pointer, "out_of_range", format!("it must be at most {max}")))
}

fn address(text: &str) -> Result<IpAddr, FieldError> {
    text.parse()
        .map_err(|_| FieldError::at("/data/ip_address", "invalid_ip_address", "it must be an IP address"))
}

fn clean(agent: Cow<'_, str>) -> Cow<'_, str> {
    match agent {
        Cow::Borrowed(agent) => text::clean_user_agent(agent),
        Cow::Owned(agent) => Cow::Owned(text::clean_user_agent(&agent).into_owned()),
    }
}

impl Call<'_> {
    /// The id of its row and of its claim: that of the same report of the same user, whenever it comes.
    pub(super) fn claim(&self, user: UserId) -> Uuid {
        events::claim_id(user, &self.source, &self.id)
    }

    /// Applies the rules, once for ever: the event carries the result.
    pub(super) fn classify(&self, rules: &Rules) -> Classified {
        let mut classified = rules.classify(&self.endpoint, self.method.as_ref(), self.status);
        classified.units = self.units.unwrap_or(classified.units);
        classified
    }

    /// Tells whether it says anything of the person behind it, which is to be sealed.
    pub(super) fn is_personal(&self) -> bool {
        self.ip_address.is_some() || self.user_agent.is_some()
    }

    /// The event, with what it says of the person sealed under the user's data key.
    ///
    /// # Errors
    /// When it says something and there is no data key: the account went while the request was under way.
    pub(super) fn event<'e>(
        &'e self,
        user: UserId,
        key: Option<&DataKey>,
        classified: &'e Classified,
        reporter: &Reporter,
    ) -> Result<Event<'e>, SealError> {
        let mut call = ApiCalled::new(classified.endpoint.as_str(), classified.category);
        call.method = self.method.as_ref().map(|method| Cow::Borrowed(method.as_str()));
        call.status_code = self.status.map(StatusCode::get);
        call.response_time_ms = self.response_time_ms;
        if self.is_personal() {
            let key = key.ok_or(KeysError::NoAccount)?;
            let agent = self.user_agent.as_deref().map(Cow::Borrowed);
            let personal = Personal::of_client(self.ip_address, agent);
            call.personal = sealer::seal(key, &self.id, &personal)?;
        }
        call.request_size = self.request_size;
        call.response_size = self.response_size;
        call.units = classified.units.get();
        call.counted = classified.counted;
        call.key_id = reporter.key_of(user).map(KeyId::get);
        if matches!(reporter.kind, ActorKind::Service | ActorKind::Admin) {
            call.actor = Some(Actor::new(reporter.kind, reporter.user.to_string()));
        }
        Ok(Event {
            id: Cow::Borrowed(&self.id),
            source: Cow::Borrowed(&self.source),
            subject: Some(user),
            time: self.time,
            body: Body::ApiCalled(call),
        })
    }
}
