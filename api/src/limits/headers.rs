//! Usage headers of a metered answer: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11,
//! structured fields), and the `X-Usage-*` headers for older clients.

use std::fmt::{self, Write};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Utc};
use ledger::limit::{self, Status};
use ledger::{Category, Meter};

use super::ask::Standing;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_USAGE_PLAN: HeaderName = HeaderName::from_static("x-usage-plan");
const X_USAGE_LIMIT: HeaderName = HeaderName::from_static("x-usage-limit");
const X_USAGE_USED: HeaderName = HeaderName::from_static("x-usage-used");
const X_USAGE_REMAINING: HeaderName = HeaderName::from_static("x-usage-remaining");
const X_USAGE_RESET: HeaderName = HeaderName::from_static("x-usage-reset");
const X_USAGE_WARNING: HeaderName = HeaderName::from_static("x-usage-warning");

/// Room for all values together; they grow past it only with an unusual plan's name.
const SCRATCH_BYTES: usize = 320;

/// Adds how the user stands to an answer about a call of this category at `now`.
///
/// `RateLimit-Policy` names every limited meter; `RateLimit` and `X-Usage-*` the one with the fewest units left among
/// those that the call uses. A meter without a limit has no `RateLimit`, `X-Usage-Limit` or `X-Usage-Remaining`.
pub fn append_usage_headers(
    headers: &mut HeaderMap,
    standing: &Standing,
    category: Category,
    now: DateTime<Utc>,
) {
    headers.reserve(9);
    let mut values = Values(BytesMut::with_capacity(SCRATCH_BYTES));
    let (limits, used) = (standing.terms.limits, standing.used);
    let window_s = standing.month.seconds();
    let reset_at = standing.month.end();
    let meter = limit::tightest(limits, used, category);
    if let Some(policies) = values.list(
        Meter::ALL.into_iter().filter_map(|meter| Some((meter, limits.of(meter)?))),
        |out, (meter, quota)| write!(out, "\"{meter}\";q={quota};w={window_s}"),
    ) {
        headers.insert(RATELIMIT_POLICY, policies);
    }
    if let Some(quota) = limits.of(meter) {
        let left = quota.saturating_sub(used.of(meter));
        let reset_s = seconds_until(reset_at, now);
        values.insert(headers, RATELIMIT, format_args!("\"{meter}\";r={left};t={reset_s}"));
        values.insert(headers, X_USAGE_LIMIT, format_args!("{quota}"));
        values.insert(headers, X_USAGE_REMAINING, format_args!("{left}"));
    }
    values.insert(headers, X_USAGE_PLAN, format_args!("{}", standing.terms.plan));
    values.insert(headers, X_USAGE_USED, format_args!("{}", used.of(meter)));
    values.insert(headers, X_USAGE_RESET, format_args!("{}", reset_at.timestamp()));
    let warned = category.meters().iter().filter_map(|&meter| Some((meter, limits.of(meter)?)));
    let warned = warned.filter(|&(meter, limit)| limit::status(used.of(meter), Some(limit)) != Status::Ok);
    if let Some(warning) = values
        .list(warned, |out, (meter, limit)| write!(out, "{meter};used={};limit={limit}", used.of(meter)))
    {
        headers.insert(X_USAGE_WARNING, warning);
    }
}

/// Whole seconds until the instant, rounded up, at least 0.
pub(super) fn seconds_until(instant: DateTime<Utc>, now: DateTime<Utc>) -> u64 {
    u64::try_from((instant - now).num_milliseconds()).unwrap_or(0).div_ceil(1_000)
}

/// Header values that share one allocation.
struct Values(BytesMut);

impl Values {
    fn insert(&mut self, headers: &mut HeaderMap, name: HeaderName, value: fmt::Arguments<'_>) {
        // Writing to a growing buffer cannot fail.
        let _ = self.0.write_fmt(value);
        if let Some(value) = self.finish() {
            headers.insert(name, value);
        }
    }

    /// The items, separated by `, `; none when there are none.
    fn list<T>(
        &mut self,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut BytesMut, T) -> fmt::Result,
    ) -> Option<HeaderValue> {
        for item in items {
            if !self.0.is_empty() {
                self.0.put_slice(b", ");
            }
            let _ = write(&mut self.0, item);
        }
        if self.0.is_empty() { None } else { self.finish() }
    }

    /// None for what no header can hold, which no plan's name is: it has no control characters.
    fn finish(&mut self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.0.split().freeze()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::PlanName;
    use ledger::limit::{Limits, Used};
    use std::sync::Arc;
    use store::read::limit_inputs::Terms;

    fn headers(limits: Limits, used: Used, category: Category) -> HeaderMap {
        let terms = Arc::new(Terms { plan: PlanName::free(), limits });
        let month = "2026-11".parse().expect("a month");
        let now = "2026-11-30T23:58:59.5Z".parse().expect("a time");
        let mut headers = HeaderMap::new();
        append_usage_headers(&mut headers, &Standing { terms, month, used }, category, now);
        headers
    }

    fn text(headers: &HeaderMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }

    const FREE: Limits = Limits { total: Some(50), analyze: Some(10) };

    #[test]
    fn the_meter_with_the_fewest_units_left_is_shown() {
        let headers = headers(FREE, Used { total: 12, analyze: 8 }, Category::Analyze);
        let shown = |name: &str| text(&headers, name).expect(name);
        assert_eq!(shown("ratelimit-policy"), r#""total";q=50;w=2592000, "analyze";q=10;w=2592000"#);
        assert_eq!(shown("ratelimit"), r#""analyze";r=2;t=61"#);
        assert_eq!(shown("x-usage-plan"), "free");
        assert_eq!(shown("x-usage-limit"), "10");
        assert_eq!(shown("x-usage-used"), "8");
        assert_eq!(shown("x-usage-remaining"), "2");
        assert_eq!(shown("x-usage-reset"), "1796083200");
        assert_eq!(shown("x-usage-warning"), "analyze;used=8;limit=10");
    }

    #[test]
    fn a_call_shows_only_meters_that_it_uses() {
        let headers = headers(FREE, Used { total: 12, analyze: 10 }, Category::Other);
        assert_eq!(text(&headers, "ratelimit").expect("ratelimit"), r#""total";r=38;t=61"#);
        assert_eq!(text(&headers, "x-usage-warning"), None);
    }

    #[test]
    fn what_is_not_limited_is_not_shown() {
        let headers = headers(Limits::UNLIMITED, Used { total: 12, analyze: 10 }, Category::Analyze);
        for name in ["ratelimit", "ratelimit-policy", "x-usage-limit", "x-usage-remaining", "x-usage-warning"]
        {
            assert_eq!(text(&headers, name), None, "{name}");
        }
        assert_eq!(text(&headers, "x-usage-used").expect("used"), "12");
    }
}
