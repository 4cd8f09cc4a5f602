//! The answer to a call that a limit refuses.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ledger::Meter;
use serde_json::{Value, json};
use store::read::plans::SoldPlan;
use url::Url;

use super::ask::{Ask, Policy, Standing};
use super::headers::{append_usage_headers, seconds_until};
use crate::http::problem::{Code, Problem, QUOTA_EXCEEDED};

const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A call that may not happen, and what its user can do about it.
pub struct Refusal {
    standing: Standing,
    ask: Ask,
    violated: Vec<Policy>,
    plans: Arc<[SoldPlan]>,
    upgrade_url: Option<String>,
}

impl Refusal {
    pub(super) fn new(
        standing: Standing,
        ask: &Ask,
        plans: Arc<[SoldPlan]>,
        upgrade_url: Option<&Url>,
    ) -> Self {
        let violated = standing.violated(ask).collect();
        Self { standing, ask: *ask, violated, plans, upgrade_url: upgrade_url.map(Url::to_string) }
    }

    /// What refuses: a meter of the plan, `total` when both do, else the key's budget.
    pub fn policy(&self) -> Policy {
        self.violated.first().copied().unwrap_or(Policy::Meter(Meter::Total))
    }

    /// Standing of the user, without the call.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The 429 of the contract, or the same with another status, for proxies that know few.
    pub fn into_problem(self, status: StatusCode) -> Problem {
        let policy = self.policy();
        let terms = &self.standing.terms;
        let (limit, used_units) = self.standing.of(policy);
        let limit = limit.unwrap_or(0);
        let resets_at = self.standing.month.end();
        let violated: Vec<&str> = self.violated.iter().map(|policy| policy.as_str()).collect();
        let mut headers = HeaderMap::new();
        append_usage_headers(&mut headers, &self.standing, self.ask.category, self.ask.at);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds_until(resets_at, self.ask.at).max(1)));
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        let units = self.ask.units;
        let bound = match policy {
            Policy::Meter(meter) => {
                format!("The plan {} allows {limit} units of {meter} a month", terms.plan)
            }
            Policy::Key => format!("The budget of this API key is {limit} units a month"),
        };
        let detail = format!("{bound}; {used_units} are used and this call costs {units}.");
        let problem = Problem::new(status, Code::QuotaExceeded, detail)
            .with_type(QUOTA_EXCEEDED, "Quota exceeded")
            .with_member("violated-policies", json!(violated))
            .with_member("meter", policy.as_str())
            .with_member("limit", limit)
            .with_member("used", used_units)
            .with_member("resets_at", json!(resets_at))
            .with_member("plan", terms.plan.as_str())
            .with_member("upgrade", self.upgrade())
            .with_headers(headers);
        match self.standing.key.filter(|_| self.violated.contains(&Policy::Key)) {
            Some(key) => problem.with_member("key_id", json!(key.id)),
            None => problem,
        }
    }

    /// The next plan up; null when there is none, or none would help.
    fn upgrade(&self) -> Value {
        if self.policy() == Policy::Key {
            return Value::Null;
        }
        let Some(SoldPlan { plan, .. }) = next_plan_up(&self.plans, &self.standing) else {
            return Value::Null;
        };
        json!({
            "plan": plan.name,
            "monthly_api_limit": plan.monthly_api_limit,
            "analyze_limit": plan.analyze_limit,
            "price_monthly": plan.price_monthly.to_string(),
            "url": self.upgrade_url,
        })
    }
}

/// The next plan up: what a refusal offers.
fn next_plan_up<'a>(plans: &'a [SoldPlan], standing: &Standing) -> Option<&'a SoldPlan> {
    let at = plans.iter().position(|sold| sold.plan.name == standing.terms.plan)?;
    plans.get(at + 1)
}
