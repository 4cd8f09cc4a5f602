//! A point of a series.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// One period and group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Point {
    /// Start of the period.
    pub(super) period: DateTime<Utc>,
    /// Null without `group_by`; `unknown` for calls without status or method; `__other__` for the endpoints that are
    /// not among the 50 largest.
    pub(super) group: Option<String>,
    pub(super) units: u64,
    /// Rows, whatever their units.
    pub(super) calls: u64,
    /// Over the calls that were timed; null when none was.
    pub(super) avg_response_time_ms: Option<u64>,
}
