//! `DELETE /api/auth/factors/{id}`: a second factor is taken away.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts as RequestParts;
use events::AccountAction;
use store::identity::credential_changes::Changed;
use store::identity::{second_factors, sessions};
use uuid::Uuid;

use crate::accounts::by::By;
use crate::accounts::sign_in::SignIn;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::hold;
use crate::auth::SignedIn;
use crate::http::extract::Path;
use crate::http::problem::{Problem, ProblemBody};

/// Takes a second factor away
///
/// The user's other sessions end. With the last factor the recovery codes end too.
#[utoipa::path(
    delete, path = "/api/auth/factors/{id}", tag = "accounts",
    params(("id" = Uuid, Path, description = "The factor")),
    responses(
        (status = 204, description = "Taken away"),
        (status = 403, description = "The sign-in was too long ago", body = ProblemBody),
        (status = 404, description = "There is no such factor", body = ProblemBody),
    )
)]
pub(super) async fn remove(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    Path(id): Path<String>,
    parts: RequestParts,
) -> Result<StatusCode, Problem> {
    let user = caller.user_id;
    let id = Uuid::try_parse(&id).map_err(|_| SignInError::NoSuchFactor)?;
    sign_in.0.changes.check(user)?;
    sign_in.must_be_recent(&caller)?;
    let mut conn = sign_in.connection().await?;
    let factors = second_factors::list(&mut conn, user).await?;
    drop(conn);
    if !factors.iter().any(|factor| factor.id == id) {
        return Err(SignInError::NoSuchFactor.into());
    }
    let by = By::user(user, caller.address, &parts.headers);
    sign_in.0.log.record(user, AccountAction::FactorRemoved, Some(super::TOTP), Some(id), &by).await?;
    let removing = sign_in.in_transaction(async |tx| {
        hold(tx, user).await?;
        if !second_factors::remove(tx, user, id).await? {
            return Err(SignInError::NoSuchFactor);
        }
        if second_factors::confirmed(tx, user).await?.is_empty() {
            second_factors::remove_all(tx, user).await?;
        }
        sessions::end_all(tx, user, Some(caller.session.id)).await?;
        Ok(())
    });
    removing.await?;
    sign_in.0.credentials.forget(Changed::User(user));
    Ok(StatusCode::NO_CONTENT)
}
