//! A tracked call through HTTP against a handler that does nothing, a publish an event, and the trigger design.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use credentials::ApiKey;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;
use vault::{Entropy as _, OsEntropy};

use crate::load::{self, Load, Requests};
use crate::probe::Probe;
use crate::process::{Environment, Machine, Process, free_address};
use crate::report::{Report, Target};

/// Duration of each load, after a warm-up of a fifth of it.
const RUN: Duration = Duration::from_secs(5);
const CONNECTIONS: [usize; 3] = [1, 64, 256];
const SPREAD_USERS: usize = 1_000;
const HOT_USERS: usize = 4;
/// A plan that nobody reaches, so that every call is decided and admitted.
const PLAN: &str = "bench";
/// Headers in which the proxy in front would describe the request that it holds.
pub(crate) const FORWARDED: &str = "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /api/items/42?page=3\r\n";

/// Users of the benchmark with their tokens.
#[derive(Debug)]
pub(crate) struct Users {
    /// Their ids.
    pub(crate) ids: Vec<Uuid>,
    /// Their bearer tokens, in the same order.
    pub(crate) tokens: Vec<String>,
    /// An API key of each, in the same order.
    keys: Vec<String>,
}

/// What a host's token says.
#[derive(Serialize)]
pub(crate) struct Claims {
    /// The user.
    pub(crate) sub: Uuid,
    /// Seconds since 1970 at which it ends.
    pub(crate) exp: i64,
}

impl Users {
    /// Creates [`SPREAD_USERS`] users on the benchmark's plan, straight in the tables: the load is what is measured.
    pub(crate) async fn create(machine: &Machine) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
        let ids: Vec<Uuid> = (1..=SPREAD_USERS).map(|n| Uuid::from_u128(0xbe9c << 64 | n as u128)).collect();
        sqlx::query(
            "INSERT INTO public.users (user_id, created_at, updated_at)
             SELECT id, '2026-01-01Z', '2026-01-01Z' FROM UNNEST($1::uuid[]) AS id",
        )
        .bind(&ids)
        .execute(&mut connection)
        .await?;
        sqlx::query(
            "INSERT INTO subscription_limits (plan_name, monthly_api_limit, analyze_limit, price_monthly, features, rank)
             VALUES ($1, 1000000000000, 1000000000000, 0, '{}', 99)",
        )
        .bind(PLAN)
        .execute(&mut connection)
        .await?;
        sqlx::query(
            "INSERT INTO subscriptions (user_id, log_seq, log_idx, plan_name, monthly_api_limit, analyze_limit,
                                        price_monthly, currency, effective_at, changed_at)
             SELECT id, 0, 0, $2, 1000000000000, 1000000000000, 0, 'USD', '2000-01-01Z', '2000-01-01Z'
             FROM UNNEST($1::uuid[]) AS id",
        )
        .bind(&ids)
        .bind(PLAN)
        .execute(&mut connection)
        .await?;
        let key = EncodingKey::from_secret(machine.variable("JWT_SECRET")?.as_bytes())?;
        let exp = (ledger::Clock::system().now() + chrono::Duration::hours(12)).timestamp();
        let mint = |&sub: &Uuid| jsonwebtoken::encode(&Header::default(), &Claims { sub, exp }, &key);
        let tokens = ids.iter().map(mint).collect::<Result<_, _>>().context("minting a token")?;
        let keys = create_keys(&mut connection, &ids).await?;
        Ok(Self { ids, tokens, keys })
    }

    pub(crate) fn spread(&self, path: &str) -> Requests {
        Requests::get(path, &self.tokens, FORWARDED)
    }

    fn keyed(&self, path: &str) -> Requests {
        Requests::get(path, &self.keys, FORWARDED)
    }

    fn hot(&self, path: &str) -> Requests {
        Requests::get(path, &self.tokens[..HOT_USERS], FORWARDED)
    }
}

/// Makes an API key with a budget for each user, straight in the tables.
async fn create_keys(connection: &mut PgConnection, users: &[Uuid]) -> anyhow::Result<Vec<String>> {
    let mut keys = Vec::with_capacity(users.len());
    let (mut hashes, mut shown) = (Vec::new(), Vec::new());
    for _ in users {
        let key = ApiKey::make(&credentials::Environment::default(), |bytes| OsEntropy.fill(bytes))?;
        hashes.push(key.hash().to_vec());
        shown.push((key.shown_prefix().to_owned(), key.last_four().to_owned()));
        keys.push(key.expose().to_owned());
    }
    let (prefixes, ends): (Vec<String>, Vec<String>) = shown.into_iter().unzip();
    // A key's id is its user's: there is one of each.
    sqlx::query(
        "INSERT INTO public.api_keys (key_id, user_id, name, role, scopes, networks, budget, created_at, created_by)
         SELECT id, id, 'bench', 'user', '{check}', '{}', 1000000000000, '2026-01-01Z', 'bench'
         FROM UNNEST($1::uuid[]) AS id",
    )
    .bind(users)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO public.api_key_secrets (hash, key_id, prefix, last_four, created_at)
         SELECT hash, id, prefix, last_four, '2026-01-01Z'
         FROM UNNEST($1::bytea[], $2::uuid[], $3::text[], $4::text[]) AS k (hash, id, prefix, last_four)",
    )
    .bind(&hashes)
    .bind(users)
    .bind(&prefixes)
    .bind(&ends)
    .execute(connection)
    .await?;
    Ok(keys)
}

/// A load, and the time that the process under it spent in user mode meanwhile.
struct Served {
    load: Load,
    user: Duration,
}

impl Served {
    fn rate(&self) -> f64 {
        self.load.rate()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn user_us_per_call(&self) -> f64 {
        self.user.as_micros() as f64 / self.load.answered as f64
    }
}

/// Measures tracked calls with and without a worker beside them, and their baselines.
pub(crate) async fn measure(machine: &Machine, users: &Users, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("tracked call: {SPREAD_USERS} users, {} s each", RUN.as_secs());
    let noop = baseline(machine, "noop", report, &users.spread("/track"), &["noop_1", "noop_64", "noop_256"])
        .await?;
    let each = baseline(
        machine,
        "publish-each",
        report,
        &users.spread("/track"),
        &["each_1", "each_64", "each_256"],
    )
    .await?;
    let fsync_p50_ms = fsync_p50_ms(machine)?;
    report.add("fsync_p50_ms", fsync_p50_ms);

    let address = free_address()?;
    let api = start_api(machine, &address).await?;
    let paused = run_all(&api, &address, &users.spread("/api/forward-auth"), 204).await?;
    add(report, &["tracked_1", "tracked_64", "tracked_256"], &paused);
    let p50 = report.get("tracked_1_p50_ms")?;
    report.hold("tracked_p50_vs_fsync_1", p50 / fsync_p50_ms, Target::AtMost(2.5));
    report.hold("tracked_vs_noop_256", paused[2].rate() / noop[2].rate(), Target::AtLeast(0.6));
    report.add("tracked_vs_publish_each", paused[2].rate() / each[2].rate());
    let (empty_us, user_us) = (noop[2].user_us_per_call(), paused[2].user_us_per_call());
    report.add("noop_user_us_per_call", empty_us);
    report.add("user_us_per_call", user_us);
    report.hold("user_vs_noop", user_us / empty_us, Target::AtMost(15.0 / 8.0));
    // In turn with one by tokens, for the machine may have become another one meanwhile.
    let keyed = one(&api, &address, &users.keyed("/api/forward-auth"), 256, 204).await?;
    let again = one(&api, &address, &users.spread("/api/forward-auth"), 256, 204).await?;
    let (key_us, jwt_us) = (keyed.user_us_per_call(), again.user_us_per_call());
    report.add("tracked_key_256_per_s", keyed.rate());
    report.hold("tracked_key_vs_jwt", key_us / jwt_us, Target::AtMost(1.1));

    let mut probe = Probe::connect(machine).await?;
    let worker = machine.run(&["worker"])?;
    probe.wait_until_projected(Duration::from_mins(2)).await?;
    let spread = run_all(&api, &address, &users.spread("/api/forward-auth"), 204).await?;
    let lag = Instant::now();
    probe.wait_until_projected(Duration::from_mins(1)).await?;
    report.hold("tracked_lag_at_end_s", lag.elapsed().as_secs_f64(), Target::AtMost(1.0));
    add(report, &["projected_1", "projected_64", "projected_256"], &spread);
    let hot = one(&api, &address, &users.hot("/api/forward-auth"), 64, 204).await?;
    report.add("projected_hot_64_per_s", hot.rate());
    worker.stop().await?;
    api.stop().await?;

    let (trigger_spread, trigger_hot) = trigger(machine, users).await?;
    report.add("trigger_spread_64_per_s", trigger_spread.rate());
    report.add("trigger_hot_64_per_s", trigger_hot.rate());
    report.hold("tracked_vs_trigger_spread", spread[1].rate() / trigger_spread.rate(), Target::AtLeast(5.0));
    report.hold("tracked_vs_trigger_hot", hot.rate() / trigger_hot.rate(), Target::AtLeast(8.0));
    Ok(())
}

/// Starts the api on `address` and waits until it admits calls.
pub(crate) async fn start_api(machine: &Machine, address: &str) -> anyhow::Result<Process> {
    let (_, port) = address.rsplit_once(':').context("an address without a port")?;
    let mut api = machine.run(&["api", "--port", port])?;
    api.wait_for_port(address).await?;
    Ok(api)
}

async fn trigger(machine: &Machine, users: &Users) -> anyhow::Result<(Served, Served)> {
    let mut connection = PgConnection::connect(machine.variable("DATABASE_URL")?).await?;
    sqlx::raw_sql(crate::baselines::TRIGGER_SCHEMA).execute(&mut connection).await?;
    sqlx::query("INSERT INTO trigger_design.limits SELECT id, 1000000000000 FROM UNNEST($1::uuid[]) AS id")
        .bind(&users.ids)
        .execute(&mut connection)
        .await?;
    let address = free_address()?;
    let process = start_baseline(machine, "trigger", &address).await?;
    let spread = one(&process, &address, &users.spread("/track"), 64, 204).await?;
    let hot = one(&process, &address, &users.hot("/track"), 64, 204).await?;
    process.stop().await?;
    Ok((spread, hot))
}

async fn baseline(
    machine: &Machine,
    name: &str,
    report: &mut Report,
    requests: &Requests,
    names: &[&'static str; 3],
) -> anyhow::Result<Vec<Served>> {
    let address = free_address()?;
    let process = start_baseline(machine, name, &address).await?;
    let loads = run_all(&process, &address, requests, 204).await?;
    process.stop().await?;
    add(report, names, &loads);
    Ok(loads)
}

async fn start_baseline(machine: &Machine, name: &str, address: &str) -> anyhow::Result<Process> {
    let program = std::env::current_exe()?;
    let environment: &Environment = &machine.environment;
    let log = machine.directory.join(format!("{name}.log"));
    let mut process = Process::start(&program, &["serve", name, "--listen", address], environment, &log)?;
    process.wait_for_port(address).await?;
    Ok(process)
}

async fn run_all(
    process: &Process,
    address: &str,
    requests: &Requests,
    expected: u16,
) -> anyhow::Result<Vec<Served>> {
    let mut loads = Vec::with_capacity(CONNECTIONS.len());
    for connections in CONNECTIONS {
        loads.push(one(process, address, requests, connections, expected).await?);
    }
    Ok(loads)
}

async fn one(
    process: &Process,
    address: &str,
    requests: &Requests,
    connections: usize,
    expected: u16,
) -> anyhow::Result<Served> {
    load::run(address, requests, connections, RUN / 5, expected).await?;
    let before = process.user_time()?;
    let load = load::run(address, requests, connections, RUN, expected).await?;
    Ok(Served { load, user: process.user_time()?.saturating_sub(before) })
}

fn add(report: &mut Report, names: &[&'static str; 3], loads: &[Served]) {
    for (name, Served { load, .. }) in names.iter().zip(loads) {
        report.add(leaked(name, "per_s"), load.rate());
        report.add(leaked(name, "p50_ms"), load.quantile_ms(0.5));
        report.add(leaked(name, "p99_ms"), load.quantile_ms(0.99));
    }
}

/// A figure's name lives as long as the process does.
fn leaked(name: &str, unit: &str) -> &'static str {
    Box::leak(format!("{name}_{unit}").into_boxed_str())
}

/// The median of appending one small frame to a file beside the log and syncing it, as nats-server does.
fn fsync_p50_ms(machine: &Machine) -> anyhow::Result<f64> {
    use std::io::Write as _;
    let path = machine.directory.join("fsync");
    let mut file = std::fs::File::create(&path)?;
    let mut latency_us = load::histogram();
    for _ in 0..500 {
        let start = Instant::now();
        file.write_all(&[0x55; 600])?;
        file.sync_all()?;
        latency_us.saturating_record(u64::try_from(start.elapsed().as_micros())?);
    }
    std::fs::remove_file(path)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one fsync")]
    let p50_us = latency_us.value_at_quantile(0.5) as f64;
    Ok(p50_us / 1_000.0)
}
