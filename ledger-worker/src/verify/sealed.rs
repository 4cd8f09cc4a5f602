//! `verify --user`: what is sealed for a user opens, or, of one who was erased, opens no longer and is nowhere else.

use std::collections::HashMap;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use data_keys::Keys;
use events::{Body, Event, EventErrorKind, SealedJson};
use ledger::UserId;
use nats::{Continuity, RawFrame};
use sqlx::Connection;
use store::identity::erasure::{self, ErasureState};
use store::identity::wrapped_keys;
use store::projection::personal_tables::{self, PersonalRows};
use store::projection::token_rows::{self, SealedRow};
use store::{Position, Schema};
use uuid::Uuid;
use vault::{DataKey, DataKeyError, OpenError, Sealed};

use crate::batch::BatchError;
use crate::job::{Progress, Rebuild};
use crate::log::{accepted_gaps, each_frame, sound_checkpoint};

use super::error::VerifyError;

/// Result of opening everything of a user.
#[derive(Debug)]
pub struct SealedReport {
    /// Time at which the user was erased, if so.
    pub erased_at: Option<DateTime<Utc>>,
    /// Sealed tokens of the log, also of events that were reported twice or replaced since.
    pub tokens: Tried,
    /// Sealed addresses, agents and names of the log.
    pub personal: Tried,
    /// Rows of `user_tokens`.
    pub stored_tokens: Tried,
    /// Data keys of the user that the database has.
    pub data_keys: u64,
    /// Rows that hold something personal in the clear, or a sealed token, of a user who was erased.
    pub personal_rows: u64,
    /// Faults of the proof; none when it holds.
    pub faults: Vec<Fault>,
}

/// Number of sealed values, and of those among them that open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// All.
    pub sealed: u64,
    /// Those that open under one of the user's data keys.
    pub open: u64,
}

/// Reason for which the proof does not hold.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Sealed values of an erased user still open.
    #[error("{0} sealed values of the log still open")]
    StillOpen(u64),
    /// Data keys of an erased user are left.
    #[error("{0} data keys are still in public.user_data_keys")]
    DataKeyLeft(u64),
    /// Rows of an erased user still hold something personal.
    #[error("{rows} rows of {table} still hold personal fields or tokens")]
    RowsLeft {
        /// The table.
        table: String,
        /// Number of its rows.
        rows: u64,
    },
    /// The account of an erased user is left.
    #[error("the account is not a tombstone")]
    AccountLeft,
    /// A data key does not open.
    #[error("a data key does not open")]
    DataKey(#[source] DataKeyError),
    /// Sealed values of a living user do not open.
    #[error("{values} sealed values of the log do not open, the first one in the event {first}")]
    NotOpen {
        /// Their number.
        values: u64,
        /// Position of the event that holds the first of them.
        first: Position,
    },
    /// A stored token of a living user does not open.
    #[error("the stored {token_type} token {id} does not open")]
    TokenNotOpen {
        /// Id of the stored token.
        id: Uuid,
        /// Provider whose API it opens.
        token_type: String,
    },
}

/// Tries to open everything that the log holds sealed for the user, up to the checkpoint, and every stored token, under
/// the data keys that the database has at that instant; and counts what an erasure must not leave. Without `keys`
/// nothing can be opened, which is enough for a user of whom there is no data key.
pub async fn open_all(
    rebuild: &Rebuild<'_>,
    user: UserId,
    keys: Option<&Keys>,
) -> Result<SealedReport, VerifyError> {
    let mut conn = store::connect(rebuild.database_url, Schema::Live).await?;
    let mut snapshot = conn.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let seq = sound_checkpoint::<VerifyError>(&mut snapshot, rebuild.log).await?;
    let standing = erasure::state(&mut snapshot, user).await?;
    let stored_tokens = token_rows::sealed_of(&mut snapshot, user).await?;
    let data_keys = wrapped_keys::of_users(&mut snapshot, &[user]).await?.len() as u64;
    let (mut opened, mut faults) = (Vec::new(), Vec::new());
    if let Some(keys) = keys {
        for key in keys.stored(&mut snapshot, user).await? {
            match key {
                Ok(key) => opened.push(key),
                Err(error) => faults.push(Fault::DataKey(error)),
            }
        }
    }
    let accepted = accepted_gaps(&mut snapshot, rebuild.log).await?;
    snapshot.rollback().await?;
    // Of a user with millions of calls that takes its time; a living one may have such rows.
    let rows = match standing.erased_at {
        Some(_) => personal_tables::rows_of(&mut conn, user).await?,
        None => Vec::new(),
    };

    (rebuild.progress)(Progress::Step("opening"));
    let continuity = Continuity::new(rebuild.log.stream().clone(), 0, HashMap::new(), accepted);
    let walk = Walk::new(user, opened);
    let tell = rebuild.progress_to(seq);
    let (walk, _) = each_frame(rebuild.log, continuity, seq, walk, Walk::frame, &tell).await?;
    if let Some(seq) = walk.earlier_build {
        return Err(BatchError::EarlierBuild { seq }.into());
    }
    Ok(walk.report(standing, data_keys, &rows, &stored_tokens, faults))
}

/// One user's events, opened so far.
struct Walk {
    user: UserId,
    keys: Vec<DataKey>,
    tokens: Tried,
    personal: Tried,
    first_not_open: Option<Position>,
    erased_at: Option<DateTime<Utc>>,
    earlier_build: Option<u64>,
}

impl Walk {
    fn new(user: UserId, keys: Vec<DataKey>) -> Self {
        Self {
            user,
            keys,
            tokens: Tried::default(),
            personal: Tried::default(),
            first_not_open: None,
            erased_at: None,
            earlier_build: None,
        }
    }

    fn frame(&mut self, frame: &RawFrame) -> ControlFlow<()> {
        let Ok(events) = events::decode_batch(&frame.body) else { return ControlFlow::Continue(()) };
        for (idx, event) in (0_u16..).zip(events) {
            match event {
                Ok(event) if event.subject == Some(self.user) => {
                    self.event(Position { seq: frame.seq, idx }, &event);
                }
                Err(error) if error.kind == EventErrorKind::EarlierBuild => {
                    self.earlier_build.get_or_insert(frame.seq);
                }
                // What cannot be read is a dead letter and says not even whose it is.
                Ok(_) | Err(_) => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn event(&mut self, position: Position, event: &Event<'_>) {
        if let Body::TokenStored(body) = &event.body {
            let opens = self.token_opens(&body.token_type, body.token_id, body.sealed.as_str());
            self.tokens.add(opens);
            self.note(position, opens);
        }
        if let Body::UserErased(_) = &event.body {
            self.erased_at.get_or_insert(event.time);
        }
        if let Some(personal) = event.personal() {
            let opens = self.personal_opens(&event.id, personal);
            self.personal.add(opens);
            self.note(position, opens);
        }
    }

    fn note(&mut self, position: Position, opens: bool) {
        if !opens {
            self.first_not_open.get_or_insert(position);
        }
    }

    fn token_opens(&self, token_type: &str, id: Uuid, sealed: &str) -> bool {
        let Ok(kind) = token_type.parse() else { return false };
        self.opens(sealed, |key, sealed| key.open_token(kind, id, sealed).map(drop))
    }

    fn personal_opens(&self, event_id: &str, sealed: &SealedJson<'_>) -> bool {
        self.opens(sealed.as_str(), |key, sealed| key.open_personal(event_id, sealed).map(drop))
    }

    fn opens(&self, sealed: &str, open: impl Fn(&DataKey, &Sealed) -> Result<(), OpenError>) -> bool {
        Sealed::from_json(sealed).is_ok_and(|sealed| self.keys.iter().any(|key| open(key, &sealed).is_ok()))
    }

    fn report(
        self,
        standing: ErasureState,
        data_keys: u64,
        rows: &[PersonalRows],
        stored: &[SealedRow],
        mut faults: Vec<Fault>,
    ) -> SealedReport {
        let mut stored_tokens = Tried::default();
        let mut tokens_not_open = Vec::new();
        for row in stored {
            let opens = self.token_opens(&row.token_type, row.id, &row.sealed);
            stored_tokens.add(opens);
            if !opens {
                tokens_not_open.push(Fault::TokenNotOpen { id: row.id, token_type: row.token_type.clone() });
            }
        }
        let erased_at = standing.erased_at.or(self.erased_at);
        if erased_at.is_some() {
            faults.extend(left(standing, self.tokens.open + self.personal.open, data_keys, rows));
        } else {
            if let Some(first) = self.first_not_open {
                let values = self.tokens.not_open() + self.personal.not_open();
                faults.push(Fault::NotOpen { values, first });
            }
            faults.extend(tokens_not_open);
        }
        SealedReport {
            erased_at,
            tokens: self.tokens,
            personal: self.personal,
            stored_tokens,
            data_keys,
            personal_rows: rows.iter().map(|table| table.rows).sum(),
            faults,
        }
    }
}

/// Faults of an erasure: what of the user should not be any more.
fn left(standing: ErasureState, open: u64, data_keys: u64, rows: &[PersonalRows]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if open > 0 {
        faults.push(Fault::StillOpen(open));
    }
    if data_keys > 0 {
        faults.push(Fault::DataKeyLeft(data_keys));
    }
    let rows = rows.iter().map(|found| Fault::RowsLeft { table: found.table.clone(), rows: found.rows });
    faults.extend(rows);
    if standing.has_account {
        faults.push(Fault::AccountLeft);
    }
    faults
}

impl Tried {
    fn add(&mut self, opens: bool) {
        self.sealed += 1;
        self.open += u64::from(opens);
    }

    fn not_open(self) -> u64 {
        self.sealed - self.open
    }
}
