//! Usage headers of a metered answer: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11,
//! structured fields), and the `X-Usage-*` headers for older clients.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Utc};
use ledger::limit::{self, Status};
use ledger::{Category, Meter};

use super::ask::{Policy, Standing};

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
/// `RateLimit-Policy` names every limited meter, and the budget of the call's API key; `RateLimit` and `X-Usage-*` the
/// one with the fewest units left among those that the call uses. A meter without a limit has no `RateLimit`,
/// `X-Usage-Limit` or `X-Usage-Remaining`.
pub fn append_usage_headers(
    headers: &mut HeaderMap,
    standing: &Standing,
    category: Category,
    now: DateTime<Utc>,
) {
    headers.reserve(9);
    let mut values = Values(BytesMut::with_capacity(SCRATCH_BYTES));
    let window_s = standing.month.seconds();
    let reset_at = standing.month.end();
    let tightest = standing.tightest(category);
    let all = Meter::ALL.into_iter().map(Policy::Meter).chain([Policy::Key]);
    for (policy, quota) in all.filter_map(|policy| Some((policy, standing.of(policy).0?))) {
        values.item().quoted(policy).text(";q=").number(quota).text(";w=").number(window_s);
    }
    values.insert_into(headers, RATELIMIT_POLICY);
    let (quota, used) = standing.of(tightest);
    if let Some(quota) = quota {
        let left = quota.saturating_sub(used);
        let reset_s = seconds_until(reset_at, now);
        values.quoted(tightest).text(";r=").number(left).text(";t=").number(reset_s);
        values.insert_into(headers, RATELIMIT);
        values.number(quota).insert_into(headers, X_USAGE_LIMIT);
        values.number(left).insert_into(headers, X_USAGE_REMAINING);
    }
    values.text(standing.terms.plan.as_str()).insert_into(headers, X_USAGE_PLAN);
    values.number(used).insert_into(headers, X_USAGE_USED);
    values.number(reset_at.timestamp()).insert_into(headers, X_USAGE_RESET);
    let concerned = category.meters().iter().copied().map(Policy::Meter).chain([Policy::Key]);
    for policy in concerned {
        let (limit, used) = standing.of(policy);
        if let Some(limit) = limit.filter(|limit| limit::status(used, Some(*limit)) != Status::Ok) {
            values.item().text(policy.as_str()).text(";used=").number(used).text(";limit=").number(limit);
        }
    }
    values.insert_into(headers, X_USAGE_WARNING);
}

/// Whole seconds until the instant, rounded up, at least 0.
pub(super) fn seconds_until(instant: DateTime<Utc>, now: DateTime<Utc>) -> u64 {
    u64::try_from((instant - now).num_milliseconds()).unwrap_or(0).div_ceil(1_000)
}

/// Header values that share one allocation, written one after the other.
struct Values(BytesMut);

impl Values {
    /// Begins an item of a list.
    fn item(&mut self) -> &mut Self {
        let separator = if self.0.is_empty() { "" } else { ", " };
        self.text(separator)
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.put_slice(text.as_bytes());
        self
    }

    fn quoted(&mut self, policy: Policy) -> &mut Self {
        self.text("\"").text(policy.as_str()).text("\"")
    }

    fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Adds what was written since the last value; nothing, when nothing was. No plan's name has what a header cannot
    /// hold, control characters.
    fn insert_into(&mut self, headers: &mut HeaderMap, name: HeaderName) {
        if !self.0.is_empty()
            && let Ok(value) = HeaderValue::from_maybe_shared(self.0.split().freeze())
        {
            headers.insert(name, value);
        }
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
        append_usage_headers(&mut headers, &Standing { terms, month, used, key: None }, category, now);
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
