//! `GET /api/users/{user}/export`: all that is held about a user, without secrets.
//!
//! A reader may be slow: the listener cuts who takes nearly nothing (`http/serve/`). It is given what was read already,
//! and only when it has taken that is the next page read, so that no connection, snapshot or lock of the database is
//! held meanwhile.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use ledger::UserId;
use store::read::export::{AccountState, Long, Page, Short, account_state};
use tokio::sync::mpsc;

use super::error::UsersError;
use super::export_turns::ExportTurn;
use super::parts::Users;
use crate::auth::{Auth, UserOrAdmin, needs};
use crate::facts::{MinSeq, MinSeqHeader, Projections};
use crate::http::extract::Path;
use crate::http::problem::{Chain, Problem, ProblemBody};

/// Bytes that are sent at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// Chunks that wait for a slow reader.
const WAITING_CHUNKS: usize = 2;

/// All that is held about a user
///
/// One JSON object: the account, months, statements, adjustments, thresholds, tokens (what may be told of them), API
/// keys and their use, ways to sign in, sessions, second factors and addresses of sign-ins, changes of plan, refusals,
/// the tokens' audit, and every recorded call. It is written while it is read; one that breaks off is no JSON. `as_of`
/// is the position of the log that it reflects: what is recorded later is not in it, but for the outcome of a call that
/// was under way, which may be that of a moment later. Whoever reads less than 1 KB/s for 30 seconds is cut off, and an
/// export of somebody who is erased meanwhile ends at once. One at a time per caller. Of a user who was erased there is
/// nothing but the tombstone.
#[utoipa::path(
    get, path = "/api/users/{user}/export", tag = "users",
    params(("user" = String, Path, description = "`me`, a UUID or an external id"), MinSeqHeader),
    responses(
        (status = 200, description = "Everything", content_type = "application/json", body = Object),
        (status = 404, description = "There is no such user for this caller", body = ProblemBody),
        (status = 429, description = "An earlier export of this caller is still under way", body = ProblemBody),
        (status = 503, description = "Too many exports are under way", body = ProblemBody),
    )
)]
pub(super) async fn export(
    caller: UserOrAdmin<needs::NoKey>,
    _seen: MinSeq,
    State(auth): State<Auth>,
    State(users): State<Users>,
    Path(named): Path<String>,
) -> Result<Response, Problem> {
    users.0.reads.check(caller.user_id)?;
    let owner = auth.resolve(&caller, Some(&named)).await?;
    let turn = users.0.exports.begin(caller.user_id)?;
    let projections = users.0.projections.clone();
    let start = Start::read(&projections, owner).await?;
    let (to, from) = mpsc::channel(WAITING_CHUNKS);
    let output = Output { to, json: start.json };
    let rest = Rest { projections, owner, seq: start.seq, output, _turn: turn };
    users.0.tasks.spawn(rest.write(start.is_erased));
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CONTENT_DISPOSITION, "attachment; filename=\"usage-ledger-export.json\""),
    ];
    Ok((headers, Body::from_stream(chunks(from))).into_response())
}

/// First part of an export, read before the answer begins: everything that is short.
struct Start {
    json: String,
    /// The log's sequence that it reflects, and whatever follows with it.
    seq: u64,
    is_erased: bool,
}

impl Start {
    async fn read(projections: &Projections, owner: UserId) -> Result<Self, UsersError> {
        let (mut conn, as_of, seq) = projections.snapshot_at().await?;
        let is_erased = match account_state(&mut conn, owner).await? {
            AccountState::Living => false,
            AccountState::Erased => true,
            AccountState::Ending => return Err(UsersError::BeingErased),
        };
        let as_of = serde_json::to_string(&as_of)?;
        let mut json = format!("{{\"as_of\":{as_of}");
        for part in Short::ALL {
            let objects = match part {
                Short::User => part.read(&mut conn, owner).await?.concat(),
                _ if is_erased => "[]".to_owned(),
                _ => format!("[{}]", part.read(&mut conn, owner).await?.join(",")),
            };
            json.extend([",\"", part.name(), "\":", &objects]);
        }
        Ok(Self { json, seq, is_erased })
    }
}

/// Reason why an export broke off.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("nobody reads it any more")]
    HungUp,
    #[error("the user was erased meanwhile")]
    Erased,
    #[error("the database failed")]
    Store(#[from] store::Error),
}

/// Rest of an export, sent while it is read.
struct Rest {
    projections: Projections,
    owner: UserId,
    seq: u64,
    output: Output,
    /// Held until the work is over, whoever has hung up before.
    _turn: ExportTurn,
}

impl Rest {
    /// Writes the rest. A failure breaks the body off, so that nobody takes a part for the whole.
    async fn write(mut self, is_erased: bool) {
        match self.parts(is_erased).await {
            Ok(()) => {}
            Err(BrokenOff::HungUp) => tracing::debug!("an export was not read to its end"),
            Err(error) => tracing::warn!(error = %Chain(&error), "an export broke off"),
        }
    }

    async fn parts(&mut self, is_erased: bool) -> Result<(), BrokenOff> {
        for part in Long::all() {
            self.output.json.extend([",\"", part.name(), "\":["]);
            let mut next = (!is_erased).then_some(part);
            let mut first = true;
            while let Some(part) = next {
                let page = self.page(part).await?;
                for object in page.objects {
                    if !std::mem::take(&mut first) {
                        self.output.json.push(',');
                    }
                    self.output.push(&object).await?;
                }
                next = page.next;
            }
            self.output.json.push(']');
        }
        self.output.json.push('}');
        self.output.end().await
    }

    /// Reads a page on a connection that is free again before any of it is sent.
    async fn page(&self, part: Long) -> Result<Page, BrokenOff> {
        if self.output.to.is_closed() {
            return Err(BrokenOff::HungUp);
        }
        let mut conn = self.projections.transaction().await?;
        if account_state(&mut conn, self.owner).await? != AccountState::Living {
            return Err(BrokenOff::Erased);
        }
        let page = part.read(&mut conn, self.owner, self.seq).await?;
        conn.rollback().await.map_err(store::Error::from)?;
        Ok(page)
    }
}

/// A piece of the body.
enum Piece {
    Some(Bytes),
    /// The last piece: with it the body is whole. One that ends without it has broken off.
    Last(Bytes),
}

/// Channel that takes the export, in pieces.
struct Output {
    to: mpsc::Sender<Piece>,
    json: String,
}

impl Output {
    async fn push(&mut self, object: &str) -> Result<(), BrokenOff> {
        self.json.push_str(object);
        if self.json.len() < CHUNK_BYTES {
            return Ok(());
        }
        let piece = Piece::Some(std::mem::take(&mut self.json).into());
        self.send(piece).await
    }

    async fn end(&mut self) -> Result<(), BrokenOff> {
        let piece = Piece::Last(std::mem::take(&mut self.json).into());
        self.send(piece).await
    }

    async fn send(&self, piece: Piece) -> Result<(), BrokenOff> {
        self.to.send(piece).await.map_err(|_| BrokenOff::HungUp)
    }
}

/// The body's chunks. It ends with an error unless its last piece has come.
fn chunks(from: mpsc::Receiver<Piece>) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(Some(from), |from| async {
        let mut from = from?;
        match from.recv().await {
            Some(Piece::Some(bytes)) => Some((Ok(bytes), Some(from))),
            Some(Piece::Last(bytes)) => Some((Ok(bytes), None)),
            None => Some((Err(std::io::Error::other("the export broke off")), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn output() -> (Output, mpsc::Receiver<Piece>) {
        let (to, from) = mpsc::channel(WAITING_CHUNKS);
        (Output { to, json: String::new() }, from)
    }

    #[tokio::test]
    async fn only_with_its_last_piece_is_it_whole() {
        let (mut output, from) = output();
        output.push("{").await.unwrap();
        output.json.push('}');
        output.end().await.unwrap();
        drop(output);
        let read: Vec<_> = chunks(from).map(Result::unwrap).collect().await;
        assert_eq!(read, ["{}"]);
        let (output, from) = self::output();
        drop(output);
        let read: Vec<_> = chunks(from).collect().await;
        assert!(matches!(read.as_slice(), [Err(_)]));
    }

    #[tokio::test]
    async fn whoever_hangs_up_ends_it() {
        let (mut output, from) = output();
        drop(from);
        assert!(matches!(output.end().await, Err(BrokenOff::HungUp)));
    }
}
