//! A call that asks to be admitted and recorded, by a proxy (forward-auth) or by a service (check).

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use data_keys::KeysError;
use events::{Actor, ApiCalled, Body, Event, Personal};
use ledger::{Category, Classified, Endpoint, KeyId, Method, Month, Rules, Units, UserId};
use nats::EncodedEvent;
use uuid::Uuid;
use vault::DataKey;

use super::error::MeteringError;
use super::sealer::{self, SealError, Sealer};
use crate::auth::Principal;
use crate::limits::{
    Ask, AskKey, Limits, LimitsError, Policy, Refusal, Standing, Verdict, append_usage_headers,
};

const X_USAGE_WOULD_BLOCK: HeaderName = HeaderName::from_static("x-usage-would-block");

/// A call under the rules.
#[derive(Debug, Clone)]
pub(crate) struct MeteredCall {
    pub(crate) user: UserId,
    pub(crate) classified: Classified,
    pub(crate) method: Option<Method>,
    /// The admission instant: it decides the month.
    pub(crate) at: DateTime<Utc>,
    /// Hash of the request that a trusted proxy asked about, if it named it.
    pub(crate) request: Option<Uuid>,
    /// The user's API key that it comes with, if it does.
    pub(crate) key: Option<AskKey>,
}

/// Fields that are recorded of a call beside those that admit it.
#[derive(Debug, Default)]
pub(crate) struct Particulars<'a> {
    pub(crate) personal: Personal<'a>,
    pub(crate) actor: Option<Actor<'a>>,
}

/// A call that is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) call_id: Uuid,
    pub(crate) seq: u64,
    /// The admission instant.
    pub(super) at: DateTime<Utc>,
    pub(super) category: Category,
    /// Standing of the user with it; none when the call does not count.
    pub(crate) standing: Option<Standing>,
    pub(super) would_block: Option<Policy>,
}

/// Fate of a call that asked.
pub(crate) enum Metered {
    Recorded(Recorded),
    Refused(Refusal),
}

impl MeteredCall {
    /// A call under these rules; `units` go before those of the rules.
    pub(crate) fn new(
        rules: &Rules,
        user: UserId,
        endpoint: &Endpoint,
        method: Option<Method>,
        units: Option<Units>,
        at: DateTime<Utc>,
    ) -> Self {
        let mut classified = rules.classify(endpoint, method.as_ref(), None);
        classified.units = units.unwrap_or(classified.units);
        Self { user, classified, method, at, request: None, key: None }
    }

    /// The same call, as its caller makes it: with an API key of its user's, or none.
    pub(crate) fn by(self, caller: &Principal) -> Self {
        let key = caller.key_of(self.user).map(|key| AskKey { id: key.id, budget: key.budget });
        Self { key, ..self }
    }

    /// The call as the limits see it.
    pub(crate) fn ask(&self) -> Ask {
        Ask {
            at: self.at,
            month: Month::of(self.at),
            category: self.classified.category,
            units: self.classified.units,
            key: self.key,
        }
    }

    /// Admits the call and records it under this id, on disk before this returns.
    pub(crate) async fn record(
        &self,
        limits: &Limits,
        sealer: &Sealer,
        call_id: Uuid,
        particulars: Particulars<'_>,
    ) -> Result<Metered, MeteringError> {
        // Before anything is admitted: it may have to wait for the database.
        let key = if particulars.personal.is_empty() { None } else { self.data_key(limits, sealer).await? };
        let admission = match self.admit(limits).await? {
            Verdict::Admitted(admission) => admission,
            Verdict::Refused(refusal) => return Ok(Metered::Refused(refusal)),
        };
        let (standing, would_block) = (admission.standing().cloned(), admission.would_block());
        // The event's own memory goes before the wait, where it was made: there may be many who wait.
        let recording =
            admission.record(&EncodedEvent::of(&self.event(call_id, key.as_deref(), particulars)?))?;
        let position = recording.await?;
        let Self { at, classified: Classified { category, counted, .. }, .. } = *self;
        count(category, counted, 1);
        Ok(Metered::Recorded(Recorded { call_id, seq: position.seq, at, category, standing, would_block }))
    }

    /// The user's data key. Without the database a call may have to pass all the same, and then nothing is recorded of
    /// the person behind it.
    async fn data_key(&self, limits: &Limits, sealer: &Sealer) -> Result<Option<Arc<DataKey>>, SealError> {
        match sealer.data_key(self.user).await {
            Ok(key) => Ok(Some(key)),
            Err(KeysError::Store(error)) if limits.is_open() && error.is_unavailable() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn admit(&self, limits: &Limits) -> Result<Verdict, LimitsError> {
        if self.classified.counted {
            limits.admit(self.user, self.ask()).await
        } else {
            Ok(Verdict::Admitted(limits.uncounted()))
        }
    }

    fn event<'a>(
        &'a self,
        call_id: Uuid,
        key: Option<&DataKey>,
        particulars: Particulars<'a>,
    ) -> Result<Event<'a>, SealError> {
        let mut call = ApiCalled::new(self.classified.endpoint.as_str(), self.classified.category);
        call.method = self.method.as_ref().map(|method| Cow::Borrowed(method.as_str()));
        call.units = self.classified.units.get();
        call.counted = self.classified.counted;
        call.actor = particulars.actor;
        call.request = self.request;
        call.key_id = self.key.map(|key| KeyId::get(key.id));
        let mut event = Event::by_api(call_id, self.user, self.at, Body::ApiCalled(call));
        if let (Some(key), Body::ApiCalled(call)) = (key, &mut event.body) {
            call.personal = sealer::seal(key, &event.id, &particulars.personal)?;
        }
        Ok(event)
    }
}

impl Recorded {
    /// Adds the usage headers of the answer.
    pub(crate) fn append_headers(&self, headers: &mut HeaderMap) {
        if let Some(standing) = &self.standing {
            append_usage_headers(headers, standing, self.category, self.at);
        }
        if let Some(policy) = self.would_block {
            append_would_block(headers, policy);
        }
    }
}

/// Says that a limit would have refused the call, in shadow mode.
pub(crate) fn append_would_block(headers: &mut HeaderMap, policy: Policy) {
    headers.insert(X_USAGE_WOULD_BLOCK, HeaderValue::from_static(policy.as_str()));
}

/// Counts calls that are on disk, for `/metrics`.
pub(crate) fn count(category: Category, counted: bool, calls: u64) {
    /// Looked up once: a look-up for each call would cost as much as admitting it.
    static COUNTERS: LazyLock<Vec<(Category, bool, metrics::Counter)>> = LazyLock::new(|| {
        let counter = |category: Category, counted: bool| {
            let text = if counted { "true" } else { "false" };
            metrics::counter!("ledger_calls_total", "category" => category.as_str(), "counted" => text)
        };
        let both = Category::ALL.into_iter().flat_map(|category| [(category, true), (category, false)]);
        both.map(|(category, counted)| (category, counted, counter(category, counted))).collect()
    });
    if let Some((.., counter)) = COUNTERS.iter().find(|(c, n, _)| (*c, *n) == (category, counted)) {
        counter.increment(calls);
    }
}
