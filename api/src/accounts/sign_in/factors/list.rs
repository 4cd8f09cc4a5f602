//! `GET /api/auth/factors`: the caller's second factors.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use store::identity::second_factors;
use utoipa::ToSchema;
use uuid::Uuid;

use super::TOTP;
use crate::accounts::sign_in::SignIn;
use crate::auth::SignedIn;
use crate::http::problem::Problem;

/// The caller's second factors.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Factors)]
pub(super) struct FactorsBody {
    /// The oldest first.
    factors: Vec<FactorEntry>,
    /// Number of recovery codes that were not used.
    recovery_codes_left: u64,
}

/// A second factor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Factor)]
pub(super) struct FactorEntry {
    /// Its id.
    factor_id: Uuid,
    /// `totp`: codes of an authenticator app.
    kind: &'static str,
    /// Its name.
    name: String,
    /// Time at which it was made.
    created_at: DateTime<Utc>,
    /// Time from which it is asked for; null while it is being set up.
    confirmed_at: Option<DateTime<Utc>>,
    /// Time of its last use.
    last_used_at: Option<DateTime<Utc>>,
}

/// The caller's second factors
#[utoipa::path(
    get, path = "/api/auth/factors", tag = "accounts",
    responses((status = 200, description = "The factors", body = FactorsBody))
)]
pub(super) async fn list(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
) -> Result<Json<FactorsBody>, Problem> {
    let mut conn = sign_in.connection().await?;
    let factors = second_factors::list(&mut conn, caller.user_id).await?;
    let recovery_codes_left = second_factors::codes_left(&mut conn, caller.user_id).await?;
    let entry = |factor: second_factors::Factor| FactorEntry {
        factor_id: factor.id,
        kind: TOTP,
        name: factor.name,
        created_at: factor.created_at,
        confirmed_at: factor.confirmed_at,
        last_used_at: factor.last_used_at,
    };
    Ok(Json(FactorsBody { factors: factors.into_iter().map(entry).collect(), recovery_codes_left }))
}
