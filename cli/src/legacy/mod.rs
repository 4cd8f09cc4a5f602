//! Takes over provider tokens that another program kept in the older form, by the event that storing one publishes.
//!
//! Every line gives its event an id that follows from the line. So a file can be taken over again, whole or after an
//! interruption, and nothing is stored twice.

mod read;
mod row;

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::auth::Accounts;
use data_keys::{Found, KeysError};
use events::{
    Actor, ActorKind, Body, Event, Personal, SOURCE_IMPORT, SealedJson, TokenStored as TokenStoredBody,
};
use ledger::{Clock, UserId, UserRef};
use nats::{EncodedEvent, PublishError};
use sqlx::PgConnection;
use store::identity::users::{Account, AccountStatus};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vault::{DataKey, OsEntropy, RootKey, TokenKind};

use crate::import::{Connected, Pass, Progress};
use read::{Batch, Numbered};
use row::RowError;

/// Time for which a batch is tried again while the log is away.
const RETRY_FOR: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_secs(1);

/// Result of taking over a file's lines.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Tokens that are stored now.
    pub(crate) stored: u64,
    /// Tokens that an earlier run stored.
    pub(crate) known: u64,
    /// Rows of users who have another token of the type.
    pub(crate) skipped: u64,
    /// Lines that give no token.
    pub(crate) refused: u64,
    /// The last sequence of the log that holds one of them.
    pub(crate) seq: Option<u64>,
    /// Whether it was stopped before the file's end.
    pub(crate) is_interrupted: bool,
}

/// Takes rows over.
pub(crate) struct Legacy<'a> {
    connected: &'a Connected,
    users: Accounts,
    clock: Clock,
    /// Whether what has no known form of a token is taken.
    accept_unknown: bool,
    /// The tokens that this run stored, which may not be projected yet.
    stored: HashMap<(UserId, TokenKind), Uuid>,
    taken: Taken,
}

impl<'a> Legacy<'a> {
    /// Prepares taking over; with `provision` a user who has no account gets one, with `accept_unknown` whatever opens
    /// is taken for a token.
    pub(crate) fn new(connected: &'a Connected, clock: Clock, provision: bool, accept_unknown: bool) -> Self {
        let users = Accounts::new(connected.pool.clone(), connected.keys.clone(), clock.clone(), provision);
        Self { connected, users, clock, accept_unknown, stored: HashMap::new(), taken: Taken::default() }
    }

    /// Takes over a file to its end, or until `stop`. Lines that give no token are told on stderr and passed over.
    pub(crate) async fn run(
        mut self,
        pass: Pass,
        root: RootKey,
        stop: &CancellationToken,
    ) -> anyhow::Result<Taken> {
        let mut progress = Progress::new(pass.total());
        let mut batches = read::start(pass, root, self.accept_unknown);
        let result = loop {
            let batch = tokio::select! {
                // A batch that was begun is brought to its end, so that the counts tell the truth.
                () = stop.cancelled() => {
                    self.taken.is_interrupted = true;
                    break Ok(());
                }
                batch = batches.recv() => batch,
            };
            let batch = match batch {
                None => break Ok(()),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(batch)) => batch,
            };
            let bytes = batch.bytes;
            if let Err(error) = self.take(batch, &progress).await {
                break Err(error);
            }
            progress.done(bytes, &self.taken.summary());
        };
        progress.finish();
        result.map(|()| self.taken)
    }

    async fn take(&mut self, batch: Batch, progress: &Progress) -> anyhow::Result<()> {
        let mut told = batch.refused;
        // A key that was destroyed meanwhile is not to be used any more.
        self.connected.keys.forget_all();
        let accounts = self.accounts(&batch.rows).await?;
        let mut conn = self.connected.pool.acquire().await?;
        let users: Vec<UserId> = accounts.iter().flatten().map(|account| account.user_id).collect();
        let keys = self.connected.keys.get_or_make_many(&mut conn, &users).await?;
        let known = Known::read(&mut conn, &batch.rows, &accounts).await?;
        drop(conn);
        let mut events = Vec::new();
        for (numbered, account) in batch.rows.iter().zip(accounts) {
            match self.event(numbered, account, &keys, &known)? {
                Made::Event(event) => events.push(event),
                Made::Known => self.taken.known += 1,
                Made::Refused(error) => told.push((numbered.line, error)),
            }
        }
        self.taken.stored += events.len() as u64;
        if let Some(seq) = self.publish(events).await? {
            self.taken.seq = self.taken.seq.max(Some(seq));
        }
        told.sort_by_key(|(line, _)| *line);
        for (line, error) in &told {
            match error {
                RowError::HasToken => self.taken.skipped += 1,
                _ => self.taken.refused += 1,
            }
            progress.say(&format!("line {line}: {error}"));
        }
        Ok(())
    }

    async fn accounts(&self, rows: &[Numbered]) -> anyhow::Result<Vec<Option<Account>>> {
        let users: Vec<UserRef> = rows.iter().map(|numbered| numbered.row.user.clone()).collect();
        match self.users.find_or_provision_many(&users).await {
            Ok(accounts) => Ok(accounts),
            Err(error) => bail!("{}", error.into_detail()),
        }
    }

    /// The row's event, unless it is known or not to be.
    fn event(
        &mut self,
        numbered: &Numbered,
        account: Option<Account>,
        keys: &Found,
        known: &Known,
    ) -> anyhow::Result<Made> {
        let Some(account) = account else { return Ok(Made::Refused(RowError::UnknownUser)) };
        let key = match keys.get(&account.user_id) {
            _ if account.status == AccountStatus::Erased => return Ok(Made::Refused(RowError::Erased)),
            // Erased since it was looked up.
            None => return Ok(Made::Refused(RowError::Erased)),
            Some(Err(error)) => return Ok(Made::Refused(RowError::DataKey(error.clone()))),
            Some(Ok(key)) => key,
        };
        let (user, kind) = (account.user_id, numbered.row.kind);
        let token_id = row_id(user, numbered.id);
        if known.recorded.contains(&token_id) {
            return Ok(Made::Known);
        }
        let theirs = known.tokens.get(&(user, kind)).or_else(|| self.stored.get(&(user, kind)));
        match theirs {
            Some(id) if *id == token_id => return Ok(Made::Known),
            Some(_) => return Ok(Made::Refused(RowError::HasToken)),
            None => {}
        }
        let event = self.sealed(numbered, user, token_id, key)?;
        self.stored.insert((user, kind), token_id);
        Ok(Made::Event(event))
    }

    fn sealed(
        &self,
        numbered: &Numbered,
        user: UserId,
        token_id: Uuid,
        key: &DataKey,
    ) -> anyhow::Result<EncodedEvent> {
        let (row, id) = (&numbered.row, numbered.id.to_string());
        let token = key.seal_token(row.kind, token_id, &row.token, &OsEntropy)?;
        let personal = match &row.name {
            None => None,
            Some(name) => {
                let personal = Personal { token_name: Some(Cow::Borrowed(name)), ..Personal::default() };
                let sealed = key.seal_personal(&id, &personal.to_json(), &OsEntropy)?;
                Some(SealedJson::new(sealed.to_compact_json())?)
            }
        };
        let body = Body::TokenStored(TokenStoredBody {
            token_id,
            token_type: Cow::Borrowed(row.kind.as_str()),
            sealed: SealedJson::new(token.to_json())?,
            masked: Cow::Owned(vault::mask(&row.token)),
            fingerprint: Cow::Owned(key.fingerprint(row.kind, &row.token).to_string()),
            actor: Actor::new(ActorKind::Operator, "usage-ledger keys import-legacy"),
            personal,
        });
        let event = Event {
            id: Cow::Owned(id),
            source: Cow::Borrowed(SOURCE_IMPORT),
            subject: Some(user),
            time: self.clock.now(),
            body,
        };
        Ok(EncodedEvent::of(&event))
    }

    /// Writes the events; answers the last one's sequence. While the log is away it tries again: whatever is written
    /// twice is stored once.
    async fn publish(&self, events: Vec<EncodedEvent>) -> anyhow::Result<Option<u64>> {
        if events.is_empty() {
            return Ok(None);
        }
        let started = Instant::now();
        loop {
            match self.connected.publisher.publish_all(events.clone()).await {
                Ok(positions) => return Ok(positions.last().map(|position| position.seq)),
                Err(PublishError::QueueFull | PublishError::Unavailable | PublishError::Unknown)
                    if started.elapsed() < RETRY_FOR =>
                {
                    tracing::warn!("the log does not answer; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error).context("the tokens cannot be written"),
            }
        }
    }
}

impl Taken {
    /// The counts, in one line.
    fn summary(&self) -> String {
        let Self { stored, known, skipped, refused, .. } = self;
        format!("{stored} stored, {known} stored before, {skipped} skipped, {refused} refused")
    }
}

enum Made {
    Event(EncodedEvent),
    Known,
    Refused(RowError),
}

/// Knowledge of the projections about a batch's rows.
struct Known {
    /// Ids of events that are projected already.
    recorded: Vec<Uuid>,
    /// The users' tokens.
    tokens: HashMap<(UserId, TokenKind), Uuid>,
}

impl Known {
    async fn read(
        conn: &mut PgConnection,
        rows: &[Numbered],
        accounts: &[Option<Account>],
    ) -> Result<Self, KeysError> {
        let owned = rows.iter().zip(accounts);
        let ids: Vec<Uuid> =
            owned.filter_map(|(numbered, account)| Some(row_id((*account)?.user_id, numbered.id))).collect();
        let users: Vec<UserId> = accounts.iter().flatten().map(|account| account.user_id).collect();
        let tokens = store::projection::token_rows::of_users(conn, &users).await?;
        let tokens = tokens.into_iter().filter_map(|token| {
            // One of a type that a later version knows is none of ours.
            Some(((token.user, token.token_type.parse().ok()?), token.id))
        });
        let recorded = store::projection::audit_chain::linked(conn, &users, &ids).await?;
        Ok(Self { recorded, tokens: tokens.collect() })
    }
}

/// The id of the event's row, as [`Event::row_id`] derives it, which is the token's too.
fn row_id(user: UserId, event_id: Uuid) -> Uuid {
    events::claim_id(user, SOURCE_IMPORT, &event_id.to_string())
}
