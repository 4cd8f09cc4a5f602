//! A month of believable calls, reported through the ingest endpoint like any host would.
//!
//! All follows from the user, the day and the call's number, so that a second `--demo` on the same data reports the
//! same events again, which count once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Datelike as _, Days, NaiveDate, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};

const DAYS: u64 = 30;
const BATCH_EVENTS: usize = 500;
const SOURCE: &str = "demo";
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a report is sent again while the projection is behind the ones before.
const RETRY_FOR: Duration = Duration::from_mins(2);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

struct User {
    name: &'static str,
    plan: &'static str,
    /// Calls on a weekday; a third of them at the weekend.
    calls_per_day: u32,
    /// Share of analyses in the calls, in percent.
    analyze_percent: u32,
}

const fn user(name: &'static str, plan: &'static str, calls_per_day: u32, analyze_percent: u32) -> User {
    User { name, plan, calls_per_day, analyze_percent }
}

const USERS: [User; 9] = [
    user("demo-ada", "enterprise", 160, 18),
    user("demo-grace", "enterprise", 95, 25),
    user("demo-linus", "pro", 19, 22),
    user("demo-margaret", "pro", 12, 15),
    user("demo-dennis", "pro", 7, 40),
    user("demo-barbara", "free", 2, 30),
    user("demo-ken", "free", 2, 10),
    user("demo-radia", "free", 1, 20),
    user("demo-edsger", "free", 1, 50),
];

const OTHER_PATHS: [(&str, &str); 6] = [
    ("GET", "/api/repos"),
    ("GET", "/api/pulls"),
    ("POST", "/api/comments"),
    ("GET", "/api/search"),
    ("POST", "/api/auth/refresh"),
    ("GET", "/api/settings"),
];

/// Reports the calls and puts the users on their plans; answers how many calls there are.
pub(crate) async fn fill(api_url: &str, admin_token: &str, now: DateTime<Utc>) -> Result<usize> {
    let api = Api::new(api_url, admin_token)?;
    let events: Vec<Value> = USERS.iter().flat_map(|user| calls(user, now)).collect();
    for batch in events.chunks(BATCH_EVENTS) {
        let answer = api.send(reqwest::Method::POST, "/api/usage/events", &json!(batch)).await?;
        anyhow::ensure!(answer["rejected"] == 0, "the demo's calls were rejected: {answer}");
    }
    for user in USERS.iter().filter(|user| user.plan != "free") {
        let change = json!({
            "plan": user.plan, "effective": "now", "reason": "demo", "source_event_id": format!("demo-{}", user.plan)
        });
        api.send(reqwest::Method::PUT, &format!("/api/users/{}/plan", user.name), &change).await?;
    }
    Ok(events.len())
}

/// The calls of a user's last 30 days, oldest first.
fn calls(user: &User, now: DateTime<Utc>) -> Vec<Value> {
    let today = now.date_naive();
    let days = (0..=DAYS).rev().filter_map(|ago| today.checked_sub_days(Days::new(ago)));
    let calls = days.flat_map(|day| {
        let weekend = day.weekday().number_from_monday() > 5;
        let usual = if weekend { user.calls_per_day.div_ceil(3) } else { user.calls_per_day };
        // Between half and one and a half of the usual.
        let count = (usual * (50 + dice(user.name, day, u32::MAX)[0] % 101)).div_ceil(100);
        (0..count).filter_map(move |number| call(user, day, number))
    });
    calls.filter(|(time, _)| *time <= now).map(|(_, event)| event).collect()
}

fn call(user: &User, day: NaiveDate, number: u32) -> Option<(DateTime<Utc>, Value)> {
    let [kind, path, moment, millis, status, size] = dice(user.name, day, number);
    // The sum of two evenly spread numbers is a day with its peak at noon, from 7:00 to 19:00 mostly.
    let seconds = i64::from(moment % 28_800 + millis % 28_800) + 14_400;
    let time = day.and_hms_opt(0, 0, 0)?.and_utc() + TimeDelta::seconds(seconds);
    let analyze = kind % 100 < user.analyze_percent;
    let (method, endpoint) =
        if analyze { ("POST", "/api/analyze") } else { OTHER_PATHS[path as usize % OTHER_PATHS.len()] };
    let status = match status % 200 {
        0 => 503,
        1..=4 => 404,
        5..=7 => 422,
        _ => 200,
    };
    let response_time_ms = if analyze { 400 + millis % 2_600 } else { 8 + millis % 120 };
    let event = json!({
        "id": format!("{}-{day}-{number}", user.name),
        "source": SOURCE,
        "subject": user.name,
        "time": time.to_rfc3339(),
        "data": {
            "endpoint": endpoint, "method": method, "status_code": status, "response_time_ms": response_time_ms,
            "request_size": 200 + size % 1_800, "response_size": 500 + size % 60_000,
            "user_agent": "demo/1.0"
        }
    });
    Some((time, event))
}

/// Numbers that look random and are the same every time.
fn dice(user: &str, day: NaiveDate, number: u32) -> [u32; 6] {
    let day = day.to_string();
    [0, 1, 2, 3, 4, 5].map(|salt| {
        let parts: [&[u8]; 5] = [b"demo", &[salt], user.as_bytes(), day.as_bytes(), &number.to_be_bytes()];
        let [.., a, b, c, d] = ledger::derived_id(&parts).into_bytes();
        u32::from_be_bytes([a, b, c, d])
    })
}

struct Api<'a> {
    client: reqwest::Client,
    url: &'a str,
    bearer_token: &'a str,
}

impl<'a> Api<'a> {
    fn new(url: &'a str, bearer_token: &'a str) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build();
        Ok(Self { client: client.context("cannot make an HTTP client")?, url, bearer_token })
    }

    /// The answer's body. What the api puts off it is asked again.
    async fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value> {
        let started = Instant::now();
        let (status, text) = loop {
            let (status, text) = self.send_once(method.clone(), path, body).await?;
            if status != StatusCode::TOO_MANY_REQUESTS || started.elapsed() > RETRY_FOR {
                break (status, text);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {text}");
        serde_json::from_str(&text).context("the api's answer is no JSON")
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one request of the command line, to its own api, with a time-out"
    )]
    async fn send_once(
        &self,
        method: reqwest::Method,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, String)> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.bearer_token)
            .json(body);
        let answer = request.send().await.context("the api does not answer")?;
        Ok((answer.status(), answer.text().await.context("the api's answer broke off")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_is_the_same_every_time_and_never_ahead() {
        let now: DateTime<Utc> = "2026-11-24T12:00:00Z".parse().unwrap();
        let events: Vec<Value> = USERS.iter().flat_map(|user| calls(user, now)).collect();
        let again: Vec<Value> = USERS.iter().flat_map(|user| calls(user, now)).collect();
        assert_eq!(events, again);
        assert!((5_000..15_000).contains(&events.len()), "{}", events.len());
        let ids: std::collections::HashSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
        assert_eq!(ids.len(), events.len());
        for event in events {
            let time: DateTime<Utc> = event["time"].as_str().unwrap().parse().unwrap();
            assert!(time <= now && time > now - TimeDelta::days(31));
        }
    }
}
