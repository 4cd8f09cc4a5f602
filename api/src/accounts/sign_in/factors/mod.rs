//! Second factors: codes of an authenticator app, and recovery codes for who has lost it.
//!
//! A session of somebody who has one is pending until it is shown. What changes factors holds the account, so that no
//! session is made meanwhile that knows nothing of it.

mod add;
mod codes;
mod confirm;
mod list;
mod remove;
mod verify;

use credentials::{RecoveryCode, TOTP_SECRET_BYTES, Totp};
use ledger::UserId;
use store::identity::second_factors::{self, Factor};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use vault::{Entropy as _, OsEntropy, Sealed};

use super::error::SignInError;
use super::parts::SignIn;
use crate::auth::Auth;
use axum::extract::FromRef;

/// Tries at a second factor that an account has in an hour, from all addresses.
pub(crate) const CODES_AN_HOUR: u32 = 30;
/// The one kind that there is.
const TOTP: &str = "totp";

/// The endpoints of second factors.
pub(super) fn router<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    Auth: FromRef<S>,
    SignIn: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(list::list, add::add))
        .routes(routes!(confirm::confirm))
        .routes(routes!(verify::verify))
        .routes(routes!(remove::remove))
        .routes(routes!(codes::renew))
}

impl SignIn {
    /// Seals the secret of a factor of this user.
    async fn seal_factor(&self, user: UserId, factor: Uuid, secret: &[u8]) -> Result<Vec<u8>, SignInError> {
        let key = self.0.sealer.data_key(user).await?;
        Ok(key.seal_factor(factor, secret, &OsEntropy)?.to_compact_json().into_bytes())
    }

    /// The factor as its secret makes it.
    async fn open_factor(&self, user: UserId, factor: &Factor) -> Result<Totp, SignInError> {
        let sealed = std::str::from_utf8(&factor.secret).ok().and_then(|json| Sealed::from_json(json).ok());
        let sealed = sealed.ok_or(SignInError::FactorUnreadable)?;
        let key = self.0.sealer.data_key(user).await?;
        let opened = key.open_factor(factor.id, &sealed).map_err(|_| SignInError::FactorUnreadable)?;
        let secret: [u8; TOTP_SECRET_BYTES] =
            opened.as_slice().try_into().map_err(|_| SignInError::FactorUnreadable)?;
        Ok(Totp::new(secret))
    }

    /// Spends the code, if it is a factor's of these: each is taken once.
    async fn spend_code(
        &self,
        user: UserId,
        factors: &[Factor],
        code: &str,
    ) -> Result<Option<Uuid>, SignInError> {
        let now = self.now();
        for factor in factors {
            let totp = self.open_factor(user, factor).await?;
            let Some(step) = totp.matched_step(code, now.timestamp(), factor.last_step) else { continue };
            let mut conn = self.connection().await?;
            if second_factors::spend(&mut conn, user, factor.id, step, now).await? {
                return Ok(Some(factor.id));
            }
        }
        Ok(None)
    }
}

/// New recovery codes.
fn new_codes() -> Result<[RecoveryCode; RecoveryCode::COUNT], SignInError> {
    Ok(RecoveryCode::make_all(|bytes| OsEntropy.fill(bytes))?)
}

/// What is stored of them.
fn hashes(codes: &[RecoveryCode], user: UserId) -> Vec<credentials::Hash> {
    codes.iter().map(|code| code.hash(user.get())).collect()
}

/// What is shown of them, once.
fn shown(codes: &[RecoveryCode]) -> Vec<String> {
    codes.iter().map(RecoveryCode::expose).collect()
}
