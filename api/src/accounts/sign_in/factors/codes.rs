//! `POST /api/auth/recovery-codes`: new recovery codes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts as RequestParts;
use events::AccountAction;
use serde::Serialize;
use store::identity::second_factors;
use utoipa::ToSchema;

use super::{hashes, new_codes, shown};
use crate::accounts::by::By;
use crate::accounts::sign_in::SignIn;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::parts::hold;
use crate::auth::SignedIn;
use crate::http::problem::{Problem, ProblemBody};

/// Recovery codes.
#[derive(Serialize, ToSchema)]
#[schema(as = RecoveryCodes)]
pub(super) struct CodesBody {
    /// Each lets in once who has lost the second factor. They are shown here and nowhere again.
    recovery_codes: Vec<String>,
}

/// Makes new recovery codes
///
/// Earlier ones are of no use any more.
#[utoipa::path(
    post, path = "/api/auth/recovery-codes", tag = "accounts",
    responses(
        (status = 201, description = "Ten codes", body = CodesBody),
        (status = 403, description = "The sign-in was too long ago", body = ProblemBody),
        (status = 404, description = "There is no second factor", body = ProblemBody),
    )
)]
pub(super) async fn renew(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    parts: RequestParts,
) -> Result<(StatusCode, Json<CodesBody>), Problem> {
    let user = caller.user_id;
    sign_in.0.changes.check(user)?;
    sign_in.must_be_recent(&caller)?;
    if !caller.session.has_factor {
        return Err(SignInError::NoSuchFactor.into());
    }
    let codes = new_codes()?;
    let by = By::user(user, caller.address, &parts.headers);
    sign_in.0.log.record(user, AccountAction::RecoveryCodesMade, None, None, &by).await?;
    let setting = sign_in.in_transaction(async |tx| {
        hold(tx, user).await?;
        // What the session remembers may be of a moment ago.
        if second_factors::confirmed(tx, user).await?.is_empty() {
            return Err(SignInError::NoSuchFactor);
        }
        Ok(second_factors::set_codes(tx, user, &hashes(&codes, user)).await?)
    });
    setting.await?;
    Ok((StatusCode::CREATED, Json(CodesBody { recovery_codes: shown(&codes) })))
}
