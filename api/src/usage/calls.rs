//! `GET /api/usage/calls`: the rows behind any number.

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledger::{Category, KeyId, Method, StatusCode, UserId};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use store::read::calls::{After, Call, CallFilter, KeyFilter};
use store::read::filter::TimeRange;
use store::read::history::{Granularity, Grouping, HistoryFilter, NO_KEY, OTHER_ENDPOINTS, UNKNOWN};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::history::{CountedParam, largest_endpoints};
use super::parts::Usage;
use crate::auth::{Auth, User, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader, Positions};
use crate::http::extract::{Json, Query, Text};
use crate::http::paging::{CursorScope, PageLimit};
use crate::http::problem::Problem;
use crate::http::time_range::{RangeEnd, is_writable, time_range};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallsQuery {
    /// Whose calls; role service and admin only.
    user_id: Option<String>,
    /// Start of the range, which belongs to it: RFC 3339, or a date. This month's start unless given.
    #[param(value_type = Option<String>)]
    from: Option<RangeEnd>,
    /// End of the range, which does not belong to it. This month's end unless given.
    #[param(value_type = Option<String>)]
    to: Option<RangeEnd>,
    /// The endpoint as recorded, or `__other__`: all but the 50 with the most units.
    #[param(value_type = Option<String>)]
    endpoint: Option<Text<2048>>,
    /// `analyze`, `auth` or `other`.
    #[param(value_type = Option<String>)]
    category: Option<Category>,
    /// 100 to 599, or `unknown`.
    #[param(value_type = Option<String>)]
    status: Option<StatusParam>,
    /// The method, or `unknown`.
    #[param(value_type = Option<String>)]
    method: Option<Method>,
    /// Id of the API key that they came with, or `none`.
    #[param(value_type = Option<String>)]
    key: Option<KeyParam>,
    /// `true` (those that count), `false` or `all`; `true` unless given.
    #[serde(default)]
    counted: CountedParam,
    /// Only those after their month's last reset: the rows that the month's counters hold.
    #[serde(default)]
    since_reset: bool,
    /// Rows a page, 1 to 500; 50 unless given.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    limit: PageLimit,
    /// `next_cursor` of the page before, with the same filters.
    cursor: Option<String>,
}

/// A status to filter by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StatusParam(String);

impl<'de> Deserialize<'de> for StatusParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let code = text.parse().ok().and_then(|code| StatusCode::new(code).ok());
        match code {
            Some(code) => Ok(Self(code.get().to_string())),
            None if text == UNKNOWN => Ok(Self(text)),
            None => Err(D::Error::custom("a status is from 100 to 599, or unknown")),
        }
    }
}

/// An API key to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyParam(KeyFilter);

impl<'de> Deserialize<'de> for KeyParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == NO_KEY {
            return Ok(Self(KeyFilter::None));
        }
        let id =
            Uuid::try_parse(&text).map_err(|_| D::Error::custom("a key is named by its UUID, or none"))?;
        Ok(Self(KeyFilter::Of(KeyId::new(id))))
    }
}

/// A page of calls, and what all pages come to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Calls {
    items: Vec<CallItem>,
    /// Leads to the next page; null on the last.
    next_cursor: Option<String>,
    /// Rows of all pages.
    rows: u64,
    /// Their units: the figure that these rows stand behind.
    units: u64,
    as_of: AsOf,
}

/// One call as recorded.
#[derive(Debug, Serialize, ToSchema)]
struct CallItem {
    id: Uuid,
    created_at: DateTime<Utc>,
    /// The month that it counts in.
    month: String,
    endpoint: String,
    method: Option<String>,
    category: String,
    counted: bool,
    units: u32,
    /// Null while not known.
    status_code: Option<u16>,
    response_time_ms: Option<u32>,
    /// Bytes.
    request_size: Option<u64>,
    /// Bytes.
    response_size: Option<u64>,
    ip_address: Option<String>,
    user_agent: Option<String>,
    /// The API key that it came with.
    key_id: Option<Uuid>,
    /// Where in the log it is; opaque.
    position: String,
}

/// The calls behind a figure, the newest first.
#[utoipa::path(
    get,
    path = "/api/usage/calls",
    tag = "usage",
    params(CallsQuery, MinSeqHeader),
    responses(
        (status = 200, body = Calls),
    )
)]
pub(super) async fn calls(
    caller: User<needs::Read>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    Query(query): Query<CallsQuery>,
) -> Result<Json<Calls>, Problem> {
    usage.0.reads.check(caller.user_id)?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let scope = query.scope(owner);
    let place = query.cursor.as_deref().map(|cursor| Place::open(&scope, cursor)).transpose()?;
    let range = match &place {
        // A month may have ended since the first page: the list stays the one that was begun.
        Some(place) => place.range,
        None => time_range(query.from, query.to, usage.0.writer.now())?,
    };
    let limit = query.limit;
    let mut filter = query.into_filter(range);

    let (mut conn, as_of) = usage.0.projections.snapshot().await?;
    if filter.endpoint.as_deref() == Some(OTHER_ENDPOINTS) {
        filter.largest = largest_endpoints(&mut conn, owner, &as_history(&filter)).await?.0;
    }
    let totals = store::read::calls::totals(&mut conn, owner, &filter).await?;
    let after = place.map(|place| place.after);
    let mut found =
        store::read::calls::page(&mut conn, owner, &filter, after.as_ref(), limit.to_read()).await?;
    drop(conn);

    let next_cursor = limit.cut(&mut found).map(|last| {
        let after = After { created_at: last.created_at, id: last.id };
        Place { range, after }.seal(&scope)
    });
    let items = found.into_iter().map(|call| CallItem::new(call, usage.0.projections.positions())).collect();
    Ok(Json(Calls { items, next_cursor, rows: totals.rows, units: totals.units, as_of }))
}

/// The filter as history has it, which decides what its largest endpoints are.
fn as_history(filter: &CallFilter) -> HistoryFilter {
    let key = match filter.key {
        Some(KeyFilter::Of(key)) => Some(key),
        Some(KeyFilter::None) | None => None,
    };
    let CallFilter { range, counted, .. } = *filter;
    HistoryFilter { range, granularity: Granularity::Month, grouping: Grouping::Endpoint, counted, key }
}

impl CallsQuery {
    /// The cursors of this list: they hold for the filters as they were given.
    fn scope(&self, owner: UserId) -> CursorScope {
        let filters = format!(
            "{:?}",
            (
                (self.from, self.to, self.endpoint.as_ref().map(Text::as_str), self.category),
                (self.status.as_ref(), self.method.as_ref(), self.counted, self.since_reset, self.key),
            )
        );
        CursorScope::new(&[b"calls", owner.get().as_bytes(), filters.as_bytes()])
    }

    fn into_filter(self, range: TimeRange) -> CallFilter {
        CallFilter {
            range,
            counted: self.counted.into(),
            category: self.category,
            endpoint: self.endpoint.map(Text::into_string),
            status: self.status.map(|status| status.0),
            method: self.method.map(|method| method.as_str().to_owned()),
            since_reset: self.since_reset,
            key: self.key.map(|key| key.0),
            largest: Vec::new(),
        }
    }
}

/// Place that a cursor carries: the list's range, and the last call that was shown.
struct Place {
    range: TimeRange,
    after: After,
}

impl Place {
    const BYTES: usize = 8 + 8 + 8 + 16;

    fn seal(&self, scope: &CursorScope) -> String {
        let mut payload = Vec::with_capacity(Self::BYTES);
        for instant in [self.range.from, self.range.to, self.after.created_at] {
            payload.extend_from_slice(&instant.timestamp_micros().to_be_bytes());
        }
        payload.extend_from_slice(self.after.id.as_bytes());
        scope.seal(&payload)
    }

    fn open(scope: &CursorScope, cursor: &str) -> Result<Self, Problem> {
        let payload = scope.open(cursor)?;
        Self::parse(&payload).ok_or_else(CursorScope::refused)
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        if payload.len() != Self::BYTES {
            return None;
        }
        let (times, id) = payload.split_at(24);
        let mut times = times.chunks_exact(8).map(|bytes| {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?);
            DateTime::from_timestamp_micros(micros).filter(|at| is_writable(*at))
        });
        let (from, to, created_at) = (times.next()??, times.next()??, times.next()??);
        let after = After { created_at, id: Uuid::from_slice(id).ok()? };
        Some(Self { range: TimeRange { from, to }, after })
    }
}

impl CallItem {
    fn new(call: Call, positions: Positions) -> Self {
        Self {
            id: call.id,
            created_at: call.created_at,
            month: call.month_year,
            endpoint: call.endpoint,
            method: call.method,
            category: call.category,
            counted: call.counted,
            units: call.units,
            status_code: call.status_code,
            response_time_ms: call.response_time_ms,
            request_size: call.request_size,
            response_size: call.response_size,
            ip_address: call.ip_address,
            user_agent: call.user_agent,
            key_id: call.key_id,
            position: positions.encode(call.log_seq),
        }
    }
}
