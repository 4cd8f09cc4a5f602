//! `GET /api/usage/history`: usage over time, complete, as JSON or CSV.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Timelike, Utc};
use ledger::{Category, KeyId, UserId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use store::read::filter::{Counted, TimeRange};
use store::read::history::{Bucket, Granularity, Grouping, HistoryFilter, OTHER_ENDPOINTS};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

mod csv;
mod point;

use point::Point;

use super::parts::Usage;
use crate::auth::{Auth, User, needs};
use crate::facts::{AsOf, MinSeq, MinSeqHeader};
use crate::http::extract::{Json, Query};
use crate::http::problem::{FieldError, Problem};
use crate::http::time_range::{RangeEnd, time_range};

/// Most points of an answer.
const MAX_POINTS: usize = 10_000;
/// Endpoints with a group of their own.
pub(crate) const LARGEST_ENDPOINTS: u32 = 50;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Whose usage; role service and admin only.
    user_id: Option<String>,
    /// Start of the range, which belongs to it: RFC 3339, or a date. This month's start unless given.
    #[param(value_type = Option<String>)]
    from: Option<RangeEnd>,
    /// End of the range, which does not belong to it. This month's end unless given.
    #[param(value_type = Option<String>)]
    to: Option<RangeEnd>,
    /// Length of a period; `day` unless given.
    #[serde(default)]
    granularity: PeriodLength,
    /// What tells calls apart; nothing unless given.
    group_by: Option<GroupBy>,
    /// `true` (those that count), `false` or `all`; `true` unless given.
    #[serde(default)]
    counted: CountedParam,
    /// Only calls that came with this API key, by its id.
    key: Option<Uuid>,
    /// `json` or `csv`; what `Accept` asks for unless given.
    format: Option<Format>,
}

/// Length of a period.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeriodLength {
    Hour,
    #[default]
    Day,
    Month,
}

/// What tells calls apart.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GroupBy {
    Category,
    Endpoint,
    Status,
    Method,
    Key,
}

/// Which calls.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(crate) enum CountedParam {
    #[default]
    #[serde(rename = "true")]
    Counted,
    #[serde(rename = "false")]
    Uncounted,
    #[serde(rename = "all")]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Csv,
}

/// Usage over time: every period of the range with every group, those without calls too, the oldest period first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    granularity: PeriodLength,
    group_by: Option<GroupBy>,
    items: Vec<Point>,
    as_of: AsOf,
}

/// Usage over time.
#[utoipa::path(
    get,
    path = "/api/usage/history",
    tag = "usage",
    params(HistoryQuery, MinSeqHeader),
    responses(
        (status = 200, description = "The series", content((History = "application/json"), (String = "text/csv"))),
    )
)]
pub(super) async fn history(
    caller: User<needs::Read>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(usage): State<Usage>,
    headers: HeaderMap,
    Query(query): Query<HistoryQuery>,
) -> Result<Response, Problem> {
    usage.0.reads.check(caller.user_id)?;
    let owner = auth.resolve(&caller, query.user_id.as_deref()).await?;
    let filter = HistoryFilter {
        range: time_range(query.from, query.to, usage.0.writer.now())?,
        granularity: query.granularity.into(),
        grouping: query.group_by.map_or(Grouping::None, Grouping::from),
        counted: query.counted.into(),
        key: query.key.map(KeyId::new),
    };
    let periods = periods(filter.range, filter.granularity)?;

    let (mut conn, as_of) = usage.0.projections.snapshot().await?;
    let groups = Groups::read(&mut conn, owner, &filter, periods.len()).await?;
    let buckets = store::read::history::buckets(&mut conn, owner, &filter, &groups.largest).await?;
    drop(conn);

    let items = complete(&periods, &groups.names, buckets, query.group_by.is_some());
    if wants_csv(query.format, &headers) {
        return Ok(csv::respond(items, &as_of));
    }
    let TimeRange { from, to } = filter.range;
    let (granularity, group_by) = (query.granularity, query.group_by);
    Ok(Json(History { from, to, granularity, group_by, items, as_of }).into_response())
}

/// The starts of all periods that the range touches: 422 when there are too many to show.
fn periods(range: TimeRange, granularity: Granularity) -> Result<Vec<DateTime<Utc>>, Problem> {
    let mut periods = Vec::new();
    let mut start = truncate(range.from, granularity);
    while start < range.to {
        if periods.len() == MAX_POINTS {
            return Err(too_many_points());
        }
        periods.push(start);
        let next = match granularity {
            Granularity::Hour => start.checked_add_signed(TimeDelta::hours(1)),
            Granularity::Day => start.checked_add_signed(TimeDelta::days(1)),
            Granularity::Month => start.checked_add_months(Months::new(1)),
        };
        let Some(next) = next else { break };
        start = next;
    }
    Ok(periods)
}

fn truncate(instant: DateTime<Utc>, granularity: Granularity) -> DateTime<Utc> {
    let hour = if matches!(granularity, Granularity::Hour) { instant.hour() } else { 0 };
    let date = match granularity {
        Granularity::Month => instant.date_naive().with_day(1),
        Granularity::Hour | Granularity::Day => None,
    };
    let date: NaiveDate = date.unwrap_or(instant.date_naive());
    date.and_time(NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or(NaiveTime::MIN)).and_utc()
}

fn too_many_points() -> Problem {
    let detail = format!(
        "the answer would have more than {MAX_POINTS} points; ask for a shorter range, longer periods or fewer groups"
    );
    Problem::validation(vec![FieldError::parameter("granularity", "too_many_points", detail)])
}

/// The groups of an answer.
struct Groups {
    /// Groups' names, in the order in which a period shows them.
    names: Vec<String>,
    /// The endpoints that are not part of [`OTHER_ENDPOINTS`].
    largest: Vec<String>,
}

impl Groups {
    async fn read(
        conn: &mut PgConnection,
        owner: UserId,
        filter: &HistoryFilter,
        periods: usize,
    ) -> Result<Self, Problem> {
        let most = MAX_POINTS / periods.max(1);
        let names = match filter.grouping {
            Grouping::None => vec![String::new()],
            Grouping::Category => Category::ALL.map(|category| category.as_str().to_owned()).to_vec(),
            Grouping::Endpoint => {
                let (largest, others) = largest_endpoints(conn, owner, filter).await?;
                let mut names = largest.clone();
                names.sort_unstable();
                names.extend(others.then(|| OTHER_ENDPOINTS.to_owned()));
                if names.len() > most {
                    return Err(too_many_points());
                }
                return Ok(Self { names, largest });
            }
            Grouping::Status | Grouping::Method | Grouping::Key => {
                let limit = u32::try_from(most + 1).unwrap_or(u32::MAX);
                store::read::history::groups(conn, owner, filter, limit).await?
            }
        };
        if names.len() > most {
            return Err(too_many_points());
        }
        Ok(Self { names, largest: Vec::new() })
    }
}

/// The endpoints with the most units that the filter finds, and whether there are others.
pub(crate) async fn largest_endpoints(
    conn: &mut PgConnection,
    owner: UserId,
    filter: &HistoryFilter,
) -> Result<(Vec<String>, bool), store::Error> {
    let limit = LARGEST_ENDPOINTS + 1;
    let filter = HistoryFilter { grouping: Grouping::Endpoint, ..*filter };
    let mut names = store::read::history::groups(conn, owner, &filter, limit).await?;
    let others = names.len() > LARGEST_ENDPOINTS as usize;
    names.truncate(LARGEST_ENDPOINTS as usize);
    Ok((names, others))
}

/// Every period with every group: what has no bucket is zero.
fn complete(periods: &[DateTime<Utc>], groups: &[String], buckets: Vec<Bucket>, grouped: bool) -> Vec<Point> {
    let mut sums: HashMap<(DateTime<Utc>, String), Bucket> =
        buckets.into_iter().map(|bucket| ((bucket.period, bucket.group.clone()), bucket)).collect();
    let mut points = Vec::with_capacity(periods.len() * groups.len());
    for &period in periods {
        for group in groups {
            let bucket = sums.remove(&(period, group.clone()));
            let timed = bucket.as_ref().filter(|bucket| bucket.timed_calls > 0);
            points.push(Point {
                period,
                group: grouped.then(|| group.clone()),
                units: bucket.as_ref().map_or(0, |bucket| bucket.units),
                calls: bucket.as_ref().map_or(0, |bucket| bucket.calls),
                avg_response_time_ms: timed.map(|bucket| bucket.total_response_time_ms / bucket.timed_calls),
            });
        }
    }
    debug_assert!(sums.is_empty(), "a sum without a place in the answer: {:?}", sums.keys());
    points
}

/// `format` decides; else the first of the two media types in the order of the client's preference.
fn wants_csv(format: Option<Format>, headers: &HeaderMap) -> bool {
    if let Some(format) = format {
        return format == Format::Csv;
    }
    let accept = headers.get_all(axum::http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = accept.flat_map(|value| value.split(',')).map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
        (media, quality.unwrap_or(1.0))
    });
    let mut ranges: Vec<_> = ranges.filter(|(_, quality)| *quality > 0.0).collect();
    // Stable: of two equally wanted the first one stays first.
    ranges.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let offered = ["text/csv", "text/*", "application/json", "application/*", "*/*"];
    let first = ranges.iter().find(|(media, _)| offered.contains(&media.as_str()));
    first.is_some_and(|(media, _)| media.starts_with("text/"))
}

impl From<PeriodLength> for Granularity {
    fn from(length: PeriodLength) -> Self {
        match length {
            PeriodLength::Hour => Self::Hour,
            PeriodLength::Day => Self::Day,
            PeriodLength::Month => Self::Month,
        }
    }
}

impl From<GroupBy> for Grouping {
    fn from(group_by: GroupBy) -> Self {
        match group_by {
            GroupBy::Category => Self::Category,
            GroupBy::Endpoint => Self::Endpoint,
            GroupBy::Status => Self::Status,
            GroupBy::Method => Self::Method,
            GroupBy::Key => Self::Key,
        }
    }
}

impl From<CountedParam> for Counted {
    fn from(counted: CountedParam) -> Self {
        match counted {
            CountedParam::Counted => Self::Counted,
            CountedParam::Uncounted => Self::Uncounted,
            CountedParam::All => Self::All,
        }
    }
}

#[cfg(test)]
mod tests;
