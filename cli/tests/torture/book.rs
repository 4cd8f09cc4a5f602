//! The callers' book: what they were told, call by call, and whether the ledger agrees.

use std::collections::BTreeMap;

use anyhow::Result;
use sqlx::PgPool;
use uuid::Uuid;

/// Fate of a call, as far as its answers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Answered 2xx: it must be there, once.
    Recorded,
    /// Answered 429: it must not be there.
    Refused,
    /// No answer, or 503: it may be there, once at most.
    Unknown,
}

/// One call, known by its endpoint, which no other call has.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) fate: Fate,
    /// The id that was answered.
    pub(crate) id: Option<Uuid>,
    /// The outcome that was reported, and whether it was taken.
    pub(crate) outcome: Option<(u16, bool)>,
}

impl Call {
    pub(crate) fn new(fate: Fate) -> Self {
        Self { fate, id: None, outcome: None }
    }
}

/// All calls by their endpoint.
#[derive(Debug, Default)]
pub(crate) struct Book(pub(crate) BTreeMap<String, Call>);

#[derive(sqlx::FromRow)]
struct Row {
    endpoint: String,
    id: Uuid,
    rows: i64,
    status_code: Option<i16>,
    counted: bool,
}

impl Book {
    /// Number of calls of this fate.
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.0.values().filter(|call| call.fate == fate).count()
    }

    /// Calls that the ledger holds otherwise than the callers were told; empty when all is well.
    pub(crate) async fn disagreements(&self, pool: &PgPool) -> Result<Vec<String>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT endpoint, min(id::text)::uuid AS id, count(*) AS rows, max(status_code) AS status_code,
                 bool_and(counted) AS counted
             FROM api_usage WHERE endpoint ~ '/t-[0-9a-z-]+$' GROUP BY endpoint",
        )
        .fetch_all(pool)
        .await?;
        let mut found = Vec::new();
        let mut missing: BTreeMap<_, _> =
            self.0.iter().filter(|(_, call)| call.fate == Fate::Recorded).collect();
        for row in &rows {
            missing.remove(&row.endpoint);
            match self.0.get(&row.endpoint) {
                None => found.push(format!("{}: nobody made this call", row.endpoint)),
                Some(call) => found.extend(wrong(call, row).map(|text| format!("{}: {text}", row.endpoint))),
            }
        }
        found.extend(missing.keys().map(|endpoint| format!("{endpoint}: answered 2xx and lost")));
        Ok(found)
    }
}

fn wrong(call: &Call, row: &Row) -> Option<String> {
    if row.rows != 1 {
        return Some(format!("{} rows, and it was {:?}", row.rows, call.fate));
    }
    if call.fate == Fate::Refused {
        return Some("refused and recorded all the same".to_owned());
    }
    if call.id.is_some_and(|id| id != row.id) {
        return Some(format!("recorded as {} and answered as {:?}", row.id, call.id));
    }
    let (status_code, answered) = call.outcome?;
    let stored = row.status_code.map(i16::unsigned_abs);
    let right = match stored {
        Some(stored) => stored == status_code && row.counted == (status_code < 500),
        None => !answered && row.counted,
    };
    (!right).then(|| format!("outcome {status_code} (answered: {answered}) stored as {stored:?}"))
}
