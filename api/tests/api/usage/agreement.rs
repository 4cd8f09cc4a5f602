//! Every figure agrees with every other one: history, calls, stats, and a plain sum over the calls themselves.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use events::Event;
use ledger::{Category, Month};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::customer::{Customer, at};
use crate::usage::seed::Call;

/// The counters of all months start anew after this many calls.
const RESET_AFTER: u64 = 350;

fn random_calls(rng: &mut StdRng, count: u64) -> Vec<Call> {
    let from = at("2026-09-28T00:00:00Z");
    let endpoints: Vec<String> = (0..70).map(|n| format!("/api/endpoint/{n}")).collect();
    let mut pick = |one_in: u32| rng.random_range(0..one_in) == 0;
    let mut calls = Vec::new();
    for number in 1..=count {
        let (untimed, uncounted, no_status, no_method) = (pick(3), pick(4), pick(6), pick(7));
        calls.push((number, untimed, uncounted, no_status, no_method));
    }
    calls
        .into_iter()
        .map(|(number, untimed, uncounted, no_status, no_method)| Call {
            // Many share an instant, so that the order of equals matters.
            created_at: from + TimeDelta::minutes(rng.random_range(0..60 * 24 * 9) * 11),
            number,
            units: rng.random_range(1..20),
            category: Category::ALL[rng.random_range(0..3)],
            counted: !uncounted,
            endpoint: endpoints[rng.random_range(0..endpoints.len())].clone(),
            method: (!no_method).then(|| ["GET", "POST", "unknown", "+X"][rng.random_range(0..4)].to_owned()),
            status_code: (!no_status).then(|| [200, 201, 404, 503][rng.random_range(0..4)]),
            response_time_ms: (!untimed).then(|| rng.random_range(0..2_000)),
        })
        .collect()
}

/// The calls in their order, with a reset of each of their months in between.
async fn seed(customer: &mut Customer, calls: &[Call]) {
    let (before, after): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(|call| call.number <= RESET_AFTER);
    let months: BTreeSet<Month> = calls.iter().map(|call| Month::of(call.created_at)).collect();
    let mut past: Vec<Event<'_>> = before.into_iter().map(|call| customer.called(call)).collect();
    past.extend(months.into_iter().map(|month| customer.restarted(month)));
    past.extend(after.into_iter().map(|call| customer.called(call)));
    customer.seed(past).await;
}

/// What a filter of the table says in the query, and which calls it means.
struct Filter {
    query: String,
    takes: Box<dyn Fn(&Call) -> bool>,
}

fn random_filter(rng: &mut StdRng) -> Filter {
    let base = at("2026-09-25T00:00:00Z");
    let from = base + TimeDelta::minutes(rng.random_range(0..60 * 24 * 60));
    let to = from + TimeDelta::minutes(rng.random_range(1..60 * 24 * 60));
    // Some ends are aligned to hours or days, so that the roll-ups are asked as well.
    let align = |instant: DateTime<Utc>, kind: u32| match kind {
        0 => instant,
        1 => instant.with_minute(0).unwrap(),
        _ => instant.with_minute(0).and_then(|instant| instant.with_hour(0)).unwrap(),
    };
    let kind = rng.random_range(0..3);
    let (from, to) = (align(from, kind), align(to, kind) + TimeDelta::days(1));
    let counted = [Some(true), Some(false), None][rng.random_range(0..3)];
    let name = counted.map_or("all".to_owned(), |counted| counted.to_string());
    Filter {
        query: format!(
            "from={}&to={}&counted={name}",
            ledger::time::to_text(from),
            ledger::time::to_text(to)
        ),
        takes: Box::new(move |call| {
            (from..to).contains(&call.created_at) && counted.is_none_or(|counted| call.counted == counted)
        }),
    }
}

fn units<'a>(calls: impl Iterator<Item = &'a Call>) -> u64 {
    calls.map(|call| u64::from(call.units)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_agrees_with_the_rows_behind_it() {
    let mut customer = Customer::start().await;
    let mut rng = StdRng::seed_from_u64(20_261_124);
    let calls = random_calls(&mut rng, 600);
    seed(&mut customer, &calls).await;
    for round in 0..40 {
        let filter = random_filter(&mut rng);
        let granularity = ["hour", "day", "month"][if round % 4 == 0 { 0 } else { rng.random_range(1..3) }];
        for group_by in [None, Some("category"), Some("endpoint"), Some("status"), Some("method")] {
            if granularity == "hour" && group_by.is_some_and(|group_by| group_by != "category") {
                continue;
            }
            check(&customer, &calls, &filter, granularity, group_by).await;
        }
    }
}

/// The history's sum, its groups one by one, and the calls behind them.
async fn check(
    customer: &Customer,
    calls: &[Call],
    filter: &Filter,
    granularity: &str,
    group_by: Option<&str>,
) {
    let taken: Vec<&Call> = calls.iter().filter(|call| (filter.takes)(call)).collect();
    let grouping = group_by.map(|group_by| format!("&group_by={group_by}")).unwrap_or_default();
    let query = format!("{}&granularity={granularity}{grouping}", filter.query);
    let history = customer.get(&format!("/api/usage/history?{query}")).await;
    let items = history["items"].as_array().unwrap();
    let sum = |field: &str| items.iter().map(|item| item[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("units"), units(taken.iter().copied()), "units of {query}");
    assert_eq!(sum("calls"), taken.len() as u64, "calls of {query}");
    for item in items {
        check_average(item, &taken, granularity, group_by);
    }
    let figure = customer.get(&format!("/api/usage/calls?{}&limit=1", filter.query)).await;
    assert_eq!((figure["units"].as_u64(), figure["rows"].as_u64()), (Some(sum("units")), Some(sum("calls"))));
    let Some(group_by) = group_by else { return };
    let mut groups: Vec<&str> = items.iter().map(|item| item["group"].as_str().unwrap()).collect();
    groups.sort_unstable();
    groups.dedup();
    // The odd ones, and a few of the rest.
    let chosen = groups.iter().filter(|group| matches!(**group, "__other__" | "unknown" | "analyze"));
    for group in chosen.chain(groups.iter().take(2)) {
        let of_group = items.iter().filter(|item| item["group"] == **group);
        let expected: u64 = of_group.map(|item| item["units"].as_u64().unwrap()).sum();
        let value = group.replace('+', "%2B");
        let figure =
            customer.get(&format!("/api/usage/calls?{}&{group_by}={value}&limit=1", filter.query)).await;
        assert_eq!(figure["units"].as_u64(), Some(expected), "{group_by}={group} of {query}");
    }
}

fn check_average(item: &Value, taken: &[&Call], granularity: &str, group_by: Option<&str>) {
    let group = item["group"].as_str();
    // Membership in `__other__` is the server's to decide; its sum is checked against the calls.
    if group == Some("__other__") {
        return;
    }
    let same_group = |call: &Call| match group_by {
        None => group.is_none(),
        Some("category") => group == Some(call.category.as_str()),
        Some("endpoint") => group == Some(&call.endpoint),
        Some("status") => group == Some(&call.status_code.map_or("unknown".into(), |s| s.to_string())),
        _ => group == Some(call.method.as_deref().unwrap_or("unknown")),
    };
    let period = at(item["period"].as_str().unwrap());
    let same_period = |call: &Call| match granularity {
        "month" => Month::of(call.created_at).start() == period,
        "day" => call.created_at.date_naive() == period.date_naive(),
        _ => call.created_at.ordinal() == period.ordinal() && call.created_at.hour() == period.hour(),
    };
    let calls = taken.iter().filter(|call| same_group(call) && same_period(call));
    let times: Vec<u64> = calls.filter_map(|call| call.response_time_ms).map(u64::from).collect();
    let average = times.iter().sum::<u64>().checked_div(times.len() as u64);
    assert_eq!(item["avg_response_time_ms"].as_u64(), average, "{item}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_all_rows_once_the_newest_first() {
    let mut customer = Customer::start().await;
    let mut rng = StdRng::seed_from_u64(7);
    let calls = random_calls(&mut rng, 400);
    seed(&mut customer, &calls).await;
    for limit in [1, 7, 50, 500] {
        let filter = random_filter(&mut rng);
        let mut expected: Vec<&Call> = calls.iter().filter(|call| (filter.takes)(call)).collect();
        expected.sort_by_key(|call| std::cmp::Reverse((call.created_at, call.number)));
        let mut shown = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/usage/calls?{}&limit={limit}{cursor}", filter.query);
            let page = customer.get(&path).await;
            assert_eq!(page["rows"].as_u64(), Some(expected.len() as u64));
            shown.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
            assert!(shown.len() <= expected.len(), "a page shows what another one has shown");
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let ids = expected.iter().map(|call| uuid::Uuid::from_u128(u128::from(call.number)).to_string());
        assert_eq!(shown, ids.map(Value::from).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_months_counters_are_the_rows_since_its_reset() {
    let mut customer = Customer::start().await;
    let calls = random_calls(&mut StdRng::seed_from_u64(3), 600);
    seed(&mut customer, &calls).await;
    for month in ["2026-09", "2026-10", "2026-11", "2026-12"] {
        let stats = customer.get(&format!("/api/usage/stats?month={month}")).await;
        let parsed: Month = month.parse().unwrap();
        let range = format!("from={}&to={}", parsed.start().date_naive(), parsed.end().date_naive());
        let of = async |filter: &str| {
            let path = format!("/api/usage/calls?{range}&since_reset=true&limit=1{filter}");
            customer.get(&path).await["units"].clone()
        };
        assert_eq!(stats["total"]["used"], of("").await);
        assert_eq!(stats["analyze"]["used"], of("&category=analyze").await);
        for category in ["analyze", "auth", "other"] {
            assert_eq!(stats["by_category"][category], of(&format!("&category={category}")).await);
        }
        let fresh = calls
            .iter()
            .filter(|call| call.counted && call.number > RESET_AFTER && Month::of(call.created_at) == parsed);
        assert_eq!(stats["total"]["used"].as_u64(), Some(units(fresh)), "{month}");
    }
}
