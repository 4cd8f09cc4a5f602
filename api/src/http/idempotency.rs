//! `Idempotency-Key`: the same request sent again gives the same answer and counts once.
//!
//! A handler takes [`Keyed<T>`] instead of `Json<T>` and does its work in [`Idempotency::run`]:
//!
//! ```ignore
//! async fn upgrade(
//!     caller: User,
//!     State(idempotency): State<Idempotency>,
//!     keyed: Keyed<Upgrade>,
//! ) -> Result<Response, Problem> {
//!     let Keyed { body, request } = keyed;
//!     idempotency.run(caller.key_owner(), request, move |attempt| async move {
//!         // Publish with `attempt.event_id` and `attempt.at`: a retry after a crash publishes the same event.
//!         // …
//!     }).await
//! }
//! ```
//!
//! The event's id and time are stored with the key before the work begins. A request that dies half-way, or is
//! answered 5xx or 429, is run again by the next one with its key, with the same id and time; a final answer is kept,
//! up to a size. What an instance keeps of a principal in a day is bounded; beyond it a user's new keys are refused
//! with 429, and of services and admins no answers are kept. Work whose answer says less than a later try will know
//! marks it as `Provisional`.

mod allowance;
mod answers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::Clock;
use ledger::ids::event_id_at;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use store::identity::idempotency::{self, Answer, RequestKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::IntoParams;
use uuid::Uuid;

use self::allowance::Used;
use self::answers::{final_answer, replay};
use crate::http::extract::{MAX_BODY_BYTES, X_BACKFILL, parse_json, read_body, require_json};
use crate::http::problem::{Chain, Code, Problem};

pub use self::allowance::{Allowance, KeyOwner};

/// The request header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that was kept: `true`.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Time for which a request may run before another one with its key takes over.
const LOCK: TimeDelta = TimeDelta::seconds(30);
/// Time after it lost its key in which a try may still put its event in the log: what was left of its work, the frame's
/// retries, and the end of its producer.
const LATE: TimeDelta = TimeDelta::seconds(90);
/// Time for which an answer is kept.
const KEPT: TimeDelta = TimeDelta::hours(24);
const CLEANING_INTERVAL: Duration = Duration::from_mins(10);
/// Idempotency keys deleted by one statement.
const CLEANING_BATCH: i64 = 5_000;

/// A JSON body, as [`crate::http::extract::Json`] reads it, and what names the request.
#[derive(Debug)]
pub struct Keyed<T> {
    /// The body.
    pub body: T,
    /// For [`Idempotency::run`].
    pub request: KeyedRequest,
}

/// The request header, for the document: `params(KeyHeader)` of every operation that runs once per key.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `KeyedRequest` reads")]
pub(crate) struct KeyHeader {
    /// 1 to 255 visible ASCII characters of the caller's choice: the same key with the same request gives the same
    /// answer for a day.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// A request as its idempotency key names it.
#[derive(Clone, Debug)]
pub struct KeyedRequest {
    key: Option<String>,
    method: String,
    path: String,
    request_hash: [u8; 32],
}

/// One try of a request. An event of the work has this id and this time, whichever try publishes it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Id of the event. Work that publishes several derives the others from it.
    pub event_id: Uuid,
    /// Time of the event: when the first try began.
    pub at: DateTime<Utc>,
    /// True when there was an earlier try whose end nobody knows.
    pub retried: bool,
    /// Time until which an earlier try may still put the event in the log. Not before this time is its absence a proof.
    pub earlier_until: DateTime<Utc>,
}

/// Mark in a response's extensions: the answer is not final, whatever its status. The next try with the key does the
/// work again, which must come to the same event and the same effect; so it is not for work that decides anew each
/// time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Provisional;

/// Body that is kept of a response, in its extensions: what is shown once is not kept, and not repeated.
#[derive(Clone, Debug)]
pub(crate) struct Kept(pub(crate) Vec<u8>);

impl Attempt {
    /// The id is of the event's very instant: a recorded call is found again by the millisecond in its id.
    fn first_at(now: DateTime<Utc>) -> Self {
        Self { event_id: event_id_at(now), at: now, retried: false, earlier_until: now }
    }
}

impl KeyedRequest {
    /// Reads `Idempotency-Key` of a request whose body was read already.
    pub fn of(parts: &axum::http::request::Parts, body: &[u8]) -> Result<Self, Problem> {
        let key = idempotency_key(&parts.headers)?;
        Ok(Self {
            // Nothing is compared with a request without a key, and its body may be large.
            request_hash: key.as_ref().map_or([0; 32], |_| request_hash(parts, body)),
            key,
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, MAX_BODY_BYTES).await?;
        Ok(Self { body: parse_json(&bytes)?, request: KeyedRequest::of(&parts, &bytes)? })
    }
}

/// SHA-256 of all that says what is asked for: the query, the headers that decide how the body is read or that carry an
/// event's attributes (CloudEvents in binary mode), and the body. Each part goes in with its length, so that none runs
/// into the next.
fn request_hash(parts: &axum::http::request::Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(parts.uri.query().unwrap_or_default().as_bytes());
    let meant = |name: &HeaderName| {
        *name == header::CONTENT_TYPE || name.as_str() == X_BACKFILL || name.as_str().starts_with("ce-")
    };
    let mut headers: Vec<_> = parts.headers.iter().filter(|(name, _)| meant(name)).collect();
    // A proxy may reorder headers. Values of one name stay in their order: the sort is stable.
    headers.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    for (name, value) in headers {
        add(name.as_str().as_bytes());
        add(value.as_bytes());
    }
    add(body);
    hash.finalize().into()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let malformed = || {
        Problem::malformed(
            Code::MalformedHeader,
            "Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
        )
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let good = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    if !good || values.next().is_some() {
        return Err(malformed());
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

/// Runs requests once per idempotency key. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency(Arc<Parts>);

struct Parts {
    pool: PgPool,
    clock: Clock,
    tasks: TaskTracker,
    used: Used,
}

enum Begun {
    /// A try, with the end of its lock, by which this try is told from others.
    Run(Attempt, DateTime<Utc>),
    Replay(Answer),
}

impl Idempotency {
    /// Idempotency keys are kept in `pool`; work that its client no longer waits for goes on in `tasks`.
    pub fn new(pool: PgPool, clock: Clock, tasks: TaskTracker) -> Self {
        Self(Arc::new(Parts { pool, clock, tasks, used: Used::new() }))
    }

    /// Does `work`, or gives the answer that it had before. Without a key it is simply done.
    ///
    /// The work goes on when the client hangs up: with a key its answer is there for the next try, and without one
    /// what follows from an event that is in the log by then is still done.
    pub async fn run<F, Fut>(
        &self,
        owner: KeyOwner,
        request: KeyedRequest,
        work: F,
    ) -> Result<Response, Problem>
    where
        F: FnOnce(Attempt) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let KeyedRequest { key, method, path, request_hash } = request;
        let Some(key) = key else {
            return self.to_its_end(work(Attempt::first_at(self.0.clock.now()))).await;
        };
        let request = RequestKey { principal: owner.user.get(), role: owner.role, method, path, key };
        let (attempt, locked_until) = match self.begin(&owner, &request, request_hash).await? {
            Begun::Replay(answer) => return replay(answer),
            Begun::Run(attempt, locked_until) => (attempt, locked_until),
        };
        let idempotency = self.clone();
        // After a panic the key is free when the lock's time is over.
        self.to_its_end(async move {
            let response = work(attempt).await.unwrap_or_else(Problem::into_response);
            idempotency.end(&owner, &request, locked_until, response).await
        })
        .await
    }

    /// Does `work` even when the client hangs up in the middle of it.
    pub async fn to_its_end<Fut>(&self, work: Fut) -> Result<Response, Problem>
    where
        Fut: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        // The task ends early only by a panic, which the panic hook has reported.
        self.0.tasks.spawn(work).await.map_err(|_| Problem::fault("panicked"))?
    }

    async fn begin(
        &self,
        owner: &KeyOwner,
        request: &RequestKey,
        request_hash: [u8; 32],
    ) -> Result<Begun, Problem> {
        // Keys that are there are answered, however many they are.
        let may_be_new = self.0.used.check(owner, Instant::now());
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        // Twice, since a key may be deleted or taken over between two statements.
        for _ in 0..2 {
            let now = self.0.clock.now();
            let first = Attempt::first_at(now);
            if may_be_new.is_ok()
                && idempotency::insert(&mut conn, request, &request_hash, first.event_id, now, now + LOCK)
                    .await?
            {
                self.0.used.add_key(owner, Instant::now());
                return Ok(Begun::Run(first, now + LOCK));
            }
            let Some(record) = idempotency::find(&mut conn, request).await? else {
                may_be_new.clone()?;
                continue;
            };
            if record.created_at < now - KEPT {
                idempotency::forget(&mut conn, request, now - KEPT).await?;
                continue;
            }
            if record.body_hash != request_hash {
                return Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    Code::IdempotencyKeyReused,
                    "This Idempotency-Key was used with another request.",
                ));
            }
            if let Some(answer) = record.answer {
                return Ok(Begun::Replay(answer));
            }
            if record.locked_until > now {
                return Err(in_use((record.locked_until - now).num_seconds()));
            }
            if idempotency::take_over(&mut conn, request, record.locked_until, now + LOCK).await? {
                let attempt = Attempt {
                    event_id: record.event_id,
                    at: record.created_at,
                    retried: true,
                    earlier_until: record.locked_until + LATE,
                };
                return Ok(Begun::Run(attempt, now + LOCK));
            }
        }
        Err(in_use(1))
    }

    /// Keeps a final answer; frees the key after any other. What is on disk in the log stays there either way, so that
    /// a database that is away now does not change the answer: a retry publishes the same event. Of a try that took too
    /// long and lost its key nothing is kept: the answer is that of the try which has the key now.
    async fn end(
        &self,
        owner: &KeyOwner,
        request: &RequestKey,
        locked_until: DateTime<Utc>,
        response: Response,
    ) -> Result<Response, Problem> {
        let (answer, response) = match final_answer(response).await {
            Ok(both) => both,
            Err(error) => (None, Problem::internal(&error).into_response()),
        };
        let answer = answer.filter(|_| self.0.used.keeps_answer(owner, Instant::now()));
        let ended = async {
            let mut conn = self.0.pool.acquire().await?;
            if let Some(answer) = &answer {
                let kept = idempotency::finish(&mut conn, request, locked_until, answer).await?;
                self.0.used.add_answer(owner, answers::bytes(answer), Instant::now());
                return Ok(kept);
            }
            idempotency::release(&mut conn, request, locked_until, self.0.clock.now()).await?;
            Ok(true)
        };
        match ended.await {
            Ok(true) => Ok(response),
            Ok(false) => Err(in_use(1)),
            Err(error) => {
                let error: store::Error = error;
                tracing::warn!(error = %Chain(&error), "the answer to an Idempotency-Key could not be kept");
                Ok(response)
            }
        }
    }

    /// Deletes old idempotency keys until `shutdown`.
    pub(crate) async fn clean(self, shutdown: CancellationToken) {
        let mut interval = tokio::time::interval(CLEANING_INTERVAL);
        while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
            if let Err(error) = self.delete_old().await {
                tracing::warn!(error = %Chain(&error), "old idempotency keys could not be deleted; trying again later");
            }
        }
    }

    async fn delete_old(&self) -> Result<(), store::Error> {
        let mut conn = self.0.pool.acquire().await?;
        let before = self.0.clock.now() - KEPT;
        while idempotency::delete_old(&mut conn, before, CLEANING_BATCH).await? > 0 {}
        Ok(())
    }
}

fn in_use(seconds: i64) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        Code::IdempotencyKeyInUse,
        "The first request with this Idempotency-Key is still running.",
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}
