//! `GET /api/users/{user}/export`: all that is held about a user, without secrets.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use ledger::{UserId, UserRef};
use sqlx::{Postgres, Transaction};
use store::read::export::{Section, objects};
use store::users::AccountStatus;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::UserOrAdmin;
use crate::extract::Path;
use crate::position::{AsOf, MinSeq};
use crate::problem::{Chain, Problem, ProblemBody};
use crate::snapshot::snapshot;
use crate::state::AppState;

/// Bytes that are sent at a time.
const CHUNK_BYTES: usize = 32 * 1024;
/// Chunks that wait for a slow reader.
const WAITING_CHUNKS: usize = 2;

/// All that is held about a user
///
/// One JSON object: the account, changes of plan, months, statements, refusals, tokens (what may be told of them), their
/// audit, and every recorded call. It is written while it is read; one that breaks off is no JSON. Of a user who was
/// erased there is nothing but the tombstone.
#[utoipa::path(
    get, path = "/api/users/{user}/export", tag = "users",
    params(("user" = String, Path, description = "`me`, a UUID or an external id")),
    responses(
        (status = 200, description = "Everything", content_type = "application/json", body = Object),
        (status = 404, description = "There is no such user for this caller", body = ProblemBody),
        (status = 503, description = "Too many exports are under way", body = ProblemBody),
    )
)]
async fn export(
    caller: UserOrAdmin,
    _seen: MinSeq,
    State(state): State<AppState>,
    Path(named): Path<String>,
) -> Result<Response, Problem> {
    state.throttle().check(caller.user_id)?;
    let owner = state.users().resolve(&caller, Some(&named)).await?;
    let account = state.users().find(&UserRef::Id(owner)).await?.ok_or_else(Problem::not_found)?;
    let permit = Arc::clone(state.exports()).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::busy("Too many exports are under way; try again."))?;
    let (conn, as_of) = snapshot(&state).await?;
    let (to, from) = mpsc::channel(WAITING_CHUNKS);
    let is_erased = account.status == AccountStatus::Erased;
    // It ends with the connection: whoever hangs up drops the receiver.
    state.tasks().spawn(write(Writer { conn, owner, is_erased, to, _permit: permit }, as_of));
    let chunks = stream::unfold(from, |mut from| async { from.recv().await.map(|chunk| (chunk, from)) });
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CONTENT_DISPOSITION, "attachment; filename=\"usage-ledger-export.json\""),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

struct Writer {
    conn: Transaction<'static, Postgres>,
    owner: UserId,
    is_erased: bool,
    to: mpsc::Sender<Result<Bytes, store::Error>>,
    _permit: OwnedSemaphorePermit,
}

/// Writes the export. A failure breaks the body off, so that nobody takes a part for the whole.
async fn write(mut writer: Writer, as_of: AsOf) {
    // Text and a number always serialise.
    let as_of = serde_json::to_string(&as_of).unwrap_or_default();
    let mut json = format!("{{\"as_of\":{as_of}");
    for section in Section::ALL {
        if let Err(error) = writer.section(section, &mut json).await {
            tracing::warn!(error = %Chain(&error), "an export broke off");
            let _ = writer.to.send(Err(error)).await;
            return;
        }
    }
    json.push('}');
    let _ = writer.to.send(Ok(json.into())).await;
}

impl Writer {
    async fn section(&mut self, section: Section, json: &mut String) -> Result<(), store::Error> {
        let is_list = section != Section::User;
        json.extend([",\"", section.name(), "\":", if is_list { "[" } else { "" }]);
        if !is_list || !self.is_erased {
            let mut first = true;
            let mut objects = objects(&mut self.conn, self.owner, section);
            while let Some(object) = objects.next().await {
                if !std::mem::take(&mut first) {
                    json.push(',');
                }
                json.push_str(&object?);
                if json.len() >= CHUNK_BYTES && self.to.send(Ok(std::mem::take(json).into())).await.is_err() {
                    // Nobody reads it any more.
                    return Ok(());
                }
            }
        }
        if is_list {
            json.push(']');
        }
        Ok(())
    }
}

/// This file's endpoints.
pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(export))
}
