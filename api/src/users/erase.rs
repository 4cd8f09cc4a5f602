//! `POST /api/users/{user}/erase`: the end of a user.
//!
//! The event is the fact; from its acknowledgement on the erasure happens, whatever becomes of this process. What is
//! done here right after it, the worker's reconciler does otherwise. A second request finds the first one's receipt, so
//! it needs no `Idempotency-Key`, and the answers kept under those keys are among what is erased.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use events::{Body, Event, UserErased};
use ledger::{UserId, UserRef};
use serde::Serialize;
use store::identity::erasure;
use store::identity::users::AccountStatus;
use store::projection::erased_users::{self, Erasure};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::UsersError;
use super::parts::Users;
use crate::auth::{Auth, Eraser, Principal, Role, needs};
use crate::http::extract::{Json, Path};
use crate::http::idempotency::Idempotency;
use crate::http::problem::{Chain, Problem, ProblemBody};

/// A user erases itself with a credential of this age at most.
const FRESH_S: i64 = 15 * 60;
/// Clocks of issuer and verifier may differ by so much.
const LEEWAY_S: i64 = 30;
/// Time that the answer waits for the tables.
const FINISHED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The receipt of an erasure.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Receipt)]
pub(super) struct ErasureReceipt {
    /// Id of the event in the log.
    #[serde(rename = "receipt_id")]
    event_id: Uuid,
    user_id: Uuid,
    erased_at: DateTime<Utc>,
    /// Where in the log it is; opaque.
    position: String,
    /// Whether the data key is destroyed and no table holds anything personal of the user any more. Otherwise it is
    /// under way; ask again for the receipt.
    finished: bool,
}

/// Erases a user, for ever
#[utoipa::path(
    post, path = "/api/users/{user}/erase", tag = "users",
    description = "The data key is destroyed, and with it every token, address and user agent that was sealed under \
        it, in every copy of\nthe log. Names, addresses and the host's id are removed; counts stay. The user is never \
        made again: its credentials\nare refused with 401, its events with `subject_erased`. A user needs a \
        credential that was issued in the last 15\nminutes; an admin may erase anybody, and a service whose API key \
        has the scope `erase` anybody but admins. Asked\nagain, they get the same receipt.",
    params(("user" = String, Path, description = "`me`, a UUID or an external id")),
    responses(
        (status = 200, description = "Erased", body = ErasureReceipt),
        (status = 202, description = "On disk in the log; the rest is under way", body = ErasureReceipt),
        (status = 403, description = "The credential is older than 15 minutes, or the role may not", body = ProblemBody),
        (status = 404, description = "There is no such user for this caller", body = ProblemBody),
    )
)]
pub(super) async fn erase(
    caller: Eraser<needs::Erase>,
    State(auth): State<Auth>,
    State(users): State<Users>,
    State(idempotency): State<Idempotency>,
    Path(named): Path<String>,
) -> Result<Response, Problem> {
    let user = auth.resolve(&caller, Some(&named)).await?;
    match caller.role {
        Role::User => must_be_fresh(&caller, users.0.writer.now().timestamp())?,
        Role::Service => users.must_be_no_admin(user).await?,
        Role::Admin => {}
    }
    if let Some(erasure) = users.earlier_erasure(user).await? {
        return Ok(users.receipt(user, erasure).await);
    }
    idempotency.to_its_end(async move { Ok(users.erase(*caller, user).await?) }).await
}

/// Refuses an old credential: whoever finds a forgotten browser or an old token cannot end its owner with it.
fn must_be_fresh(caller: &Principal, now_s: i64) -> Result<(), UsersError> {
    let is_fresh = |issued_at_s: i64| {
        issued_at_s >= now_s.saturating_sub(FRESH_S) && issued_at_s <= now_s.saturating_add(LEEWAY_S)
    };
    if caller.issued_at_s.is_some_and(is_fresh) { Ok(()) } else { Err(UsersError::StaleCredential) }
}

impl Users {
    /// Refuses a service that would end an admin: it could not be stopped by one then.
    async fn must_be_no_admin(&self, user: UserId) -> Result<(), UsersError> {
        let account = self.0.accounts.find(&UserRef::Id(user)).await?;
        let is_admin = account.is_some_and(|account| account.used_by_admin);
        if is_admin { Err(UsersError::AdminErasedByService) } else { Ok(()) }
    }

    /// The user's erasure, if there was one.
    async fn earlier_erasure(&self, user: UserId) -> Result<Option<Erasure>, UsersError> {
        if let Some(erasure) = self.projected_erasure(user).await? {
            return Ok(Some(erasure));
        }
        let account = self.0.accounts.find(&UserRef::Id(user)).await?;
        match account.map(|account| account.status) {
            Some(AccountStatus::Erased) => Err(UsersError::ErasureNotProjected),
            Some(AccountStatus::Active | AccountStatus::Suspended) => Ok(None),
            // A user's own UUID was not looked up before, and neither was an admin's.
            None => Err(UsersError::NoSuchUser),
        }
    }

    async fn erase(&self, caller: Principal, user: UserId) -> Result<Response, UsersError> {
        let (event_id, at) = (self.0.writer.new_id(), self.0.writer.now());
        let body = Body::UserErased(UserErased { actor: caller.actor() });
        let seq = self.0.writer.record(&Event::by_api(event_id, user, at, body)).await?;
        // From here on nothing takes it back.
        if let Err(error) = self.bury(user, at).await {
            let cause = Chain(&error).to_string();
            tracing::warn!(user_id = %user, cause, "an erasure is finished by the worker");
        }
        self.0.accounts.forget(&[user]);
        let position = store::Position { seq, idx: 0 };
        Ok(self.receipt(user, Erasure { event_id, erased_at: at, position }).await)
    }

    /// The account becomes a tombstone, and the data key is gone.
    async fn bury(&self, user: UserId, at: DateTime<Utc>) -> Result<(), UsersError> {
        let mut conn = self.0.projections.connection().await?;
        self.0.data_keys.bury(&mut conn, user, at).await?;
        Ok(())
    }

    async fn receipt(&self, user: UserId, erasure: Erasure) -> Response {
        let finished = self.is_finished(user, erasure.position.seq).await.unwrap_or_else(|error| {
            tracing::warn!(user_id = %user, error = %Chain(&error), "whether an erasure is finished is not known");
            false
        });
        // Without the database this one's own event stands, which is on disk in the log all the same.
        let erasure = self.projected_erasure(user).await.ok().flatten().unwrap_or(erasure);
        let seq = erasure.position.seq;
        let receipt = ErasureReceipt {
            event_id: erasure.event_id,
            user_id: user.get(),
            erased_at: erasure.erased_at,
            position: self.0.projections.positions().encode(seq),
            finished,
        };
        let status = if finished { StatusCode::OK } else { StatusCode::ACCEPTED };
        (status, self.0.writer.at(seq), Json(receipt)).into_response()
    }

    /// The erasure as it is projected. Of several at once the log's first is the one that everybody is told of.
    async fn projected_erasure(&self, user: UserId) -> Result<Option<Erasure>, UsersError> {
        let mut conn = self.0.projections.connection().await?;
        Ok(erased_users::find(&mut conn, user).await?)
    }

    /// Waits a little until everything is done.
    async fn is_finished(&self, user: UserId, seq: u64) -> Result<bool, store::Error> {
        let until = Instant::now() + FINISHED_WITHIN;
        if !self.0.projections.wait_for(seq, FINISHED_WITHIN).await {
            return Ok(false);
        }
        loop {
            let mut conn = self.0.projections.connection().await?;
            if erasure::is_finished(&mut conn, user).await? {
                return Ok(true);
            }
            drop(conn);
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
