//! Callers that never stop: users through forward-auth up to and beyond their limits, outcomes of their calls, and a
//! service that reports calls and repeats what it got no answer to.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use testkit::{Client, Role};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    book::{Book, Call, Fate},
    cluster::{BOUND, Cluster, Settings},
};

/// Users are called by several tasks at once.
const GROUPS: usize = 3;
const TASKS_OF_A_GROUP: usize = 3;
const REPORTERS: u64 = 2;
/// The free plan holds 50, and 10 of them analyses: a user is called until either is refused for long.
const CALLS_OF_A_USER: u64 = 80;
/// Between two calls of a task: the machine has others to serve.
const PAUSE: Duration = Duration::from_millis(4);
/// Before a task that got no answer, or 503, goes on.
const AFTER_FAILURE: Duration = Duration::from_millis(40);

/// The running load.
pub(crate) struct Load {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
}

struct Shared {
    book: Mutex<Book>,
    settings: Settings,
    /// Calls made by each group.
    made: [AtomicU64; GROUPS],
    /// Those of them that were decided.
    decided: [AtomicU64; GROUPS],
    /// Admitted calls, and reports, that were answered 2xx.
    admitted: AtomicU64,
    reported: AtomicU64,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, endpoint: &str, call: Call) {
        self.book().0.insert(endpoint.to_owned(), call);
    }
}

impl Load {
    /// Starts calling.
    pub(crate) fn start(settings: Settings, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            settings,
            made: Default::default(),
            decided: Default::default(),
            admitted: AtomicU64::default(),
            reported: AtomicU64::default(),
        });
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for task in 0..GROUPS * TASKS_OF_A_GROUP {
            let rng = SmallRng::seed_from_u64(seed ^ u64::try_from(task).unwrap_or(0));
            tasks.spawn(call(Arc::clone(&shared), task % GROUPS, rng, stop.clone()));
        }
        for task in 0..REPORTERS {
            let rng = SmallRng::seed_from_u64(seed ^ (1_000 + task));
            tasks.spawn(report(Arc::clone(&shared), task, rng, stop.clone()));
        }
        Self { shared, stop, tasks }
    }

    /// Waits until calls and reports are answered 2xx again.
    pub(crate) async fn progresses(&mut self, cluster: &mut Cluster) -> Result<()> {
        let counters = [&self.shared.admitted, &self.shared.reported];
        let before = counters.map(|counter| counter.load(Ordering::Relaxed));
        let started = Instant::now();
        while counters
            .iter()
            .zip(before)
            .any(|(counter, before)| counter.load(Ordering::Relaxed) < before + 5)
        {
            cluster.supervise()?;
            if let Some(ended) = self.tasks.try_join_next() {
                bail!("a caller gave up: {:?}", ended?);
            }
            anyhow::ensure!(
                started.elapsed() < BOUND,
                "no progress within {BOUND:?}: {before:?}, {counters:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends the load; every report has its answer then.
    pub(crate) async fn stop(mut self) -> Result<Book> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(std::mem::take(&mut *self.shared.book()))
    }
}

/// One task of a group: calls its user, at times beside the others of the group, and reports how some calls ended.
async fn call(shared: Arc<Shared>, group: usize, mut rng: SmallRng, stop: CancellationToken) -> Result<()> {
    let service = shared.settings.client("torturer", Role::Service)?;
    while !stop.is_cancelled() {
        let made = shared.made[group].fetch_add(1, Ordering::Relaxed);
        let decided = shared.decided[group].load(Ordering::Relaxed);
        let user = format!("caller-{group}-{}", decided / CALLS_OF_A_USER);
        let kind = if made.is_multiple_of(3) { "analyze" } else { "x" };
        let endpoint = format!("/api/{kind}/t-{group}-{made}");
        let (fate, id) = admit(&shared, &user, &endpoint).await?;
        if fate == Fate::Unknown {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        }
        shared.decided[group].fetch_add(1, Ordering::Relaxed);
        if let Some(id) = id
            && rng.random_bool(0.1)
        {
            let status_code = if rng.random_bool(0.5) { 500 } else { 201 };
            complete(&shared, &service, &endpoint, id, status_code).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// One call through forward-auth: what became of it, and its id if it was admitted.
async fn admit(shared: &Shared, user: &str, endpoint: &str) -> Result<(Fate, Option<Uuid>)> {
    let client = shared.settings.client(user, Role::User)?;
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", endpoint);
    let mut call = Call::new(Fate::Unknown);
    if let Ok(answer) = request.header("X-Forwarded-Method", "GET").send().await {
        match answer.status.as_u16() {
            204 => {
                let id = answer.header("x-usage-call-id").context("a call without an id")?;
                call = Call { id: Some(id.parse()?), ..Call::new(Fate::Recorded) };
                shared.admitted.fetch_add(1, Ordering::Relaxed);
            }
            429 => call.fate = Fate::Refused,
            503 => anyhow::ensure!(answer.header("retry-after").is_some(), "503 without Retry-After"),
            other => bail!("forward-auth answered {other}: {}", answer.text()),
        }
    }
    let told = (call.fate, call.id);
    shared.note(endpoint, call);
    Ok(told)
}

/// Reports an outcome, a few times if there is no answer.
async fn complete(
    shared: &Shared,
    service: &Client,
    endpoint: &str,
    id: Uuid,
    status_code: u16,
) -> Result<()> {
    let path = format!("/api/usage/calls/{id}/outcome");
    let mut answered = false;
    for _ in 0..3 {
        let body = json!({"status_code": status_code, "response_time_ms": 7});
        let Ok(answer) = service.post(&path).json(&body).send().await else { continue };
        match answer.status.as_u16() {
            200 | 202 => answered = true,
            503 => continue,
            other => bail!("the outcome of {endpoint} was answered {other}: {}", answer.text()),
        }
        break;
    }
    if let Some(call) = shared.book().0.get_mut(endpoint) {
        call.outcome = Some((status_code, answered));
    }
    Ok(())
}

/// Reports batches, each again and again until it is answered, and now and then once more after that.
async fn report(shared: Arc<Shared>, task: u64, mut rng: SmallRng, stop: CancellationToken) -> Result<()> {
    let service = shared.settings.client("torturer", Role::Service)?;
    for batch in 0_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let size = rng.random_range(1..=20);
        let ids: Vec<String> = (0..size).map(|n| format!("t-r{task}-{batch}-{n}")).collect();
        let events: Vec<Value> = ids
            .iter()
            .map(|id| {
                json!({"id": id, "subject": format!("reported-{}", batch % 5),
                       "data": {"endpoint": format!("/api/x/{id}"), "status_code": 200}})
            })
            .collect();
        let endpoints = || ids.iter().map(|id| format!("/api/x/{id}"));
        for endpoint in endpoints() {
            shared.note(&endpoint, Call::new(Fate::Unknown));
        }
        until_answered(&service, &events).await?;
        for endpoint in endpoints() {
            shared.note(&endpoint, Call::new(Fate::Recorded));
        }
        shared.reported.fetch_add(1, Ordering::Relaxed);
        if rng.random_bool(0.1) {
            until_answered(&service, &events).await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn until_answered(service: &Client, events: &[Value]) -> Result<()> {
    let started = Instant::now();
    loop {
        anyhow::ensure!(started.elapsed() < 2 * BOUND, "a report was not answered within {:?}", 2 * BOUND);
        let Ok(answer) = service.post("/api/usage/events").json(&events).send().await else {
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        match answer.status.as_u16() {
            202 => {
                anyhow::ensure!(answer.json()?["rejected"] == 0, "rejected: {}", answer.text());
                return Ok(());
            }
            status @ (429 | 503) => {
                anyhow::ensure!(answer.header("retry-after").is_some(), "{status} without Retry-After");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            other => bail!("a report was answered {other}: {}", answer.text()),
        }
    }
}
