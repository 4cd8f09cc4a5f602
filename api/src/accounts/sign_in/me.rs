//! `GET /api/users/me` and `PATCH /api/users/me`: the caller's own account.

use axum::extract::{FromRequest, Request, State};
use chrono::{DateTime, Utc};
use events::AccountAction;
use ledger::UserId;
use serde::{Deserialize, Serialize};
use store::identity::people::{self, IdentityKind};
use store::identity::users::{self, AccountStatus, Change, UserChange};
use store::identity::{passwords, second_factors};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::SignInError;
use super::parts::SignIn;
use crate::accounts::by::By;
use crate::accounts::request::given;
use crate::auth::{Role, SignedIn, User, needs};
use crate::http::extract::{Json, Text};
use crate::http::problem::{Problem, ProblemBody};

/// The caller's account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Me)]
pub(super) struct MeBody {
    /// The user.
    user_id: Uuid,
    /// `user`, `service` or `admin`: what the credential may do.
    role: Role,
    /// The host's id, if it has told one.
    external_id: Option<String>,
    /// Address at which the host reaches the user, if it has told one; nobody signs in by it.
    contact_email: Option<String>,
    /// What to call the user.
    name: Option<String>,
    /// Time at which the account was made.
    created_at: DateTime<Utc>,
    /// How its user signs in here.
    sign_in: WaysIn,
}

/// How a user signs in here.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WaysIn)]
pub(super) struct WaysIn {
    /// Address by which it signs in.
    email: Option<String>,
    /// Whether the address was shown to be the user's.
    email_verified: bool,
    /// Whether it has a password.
    has_password: bool,
    /// Its login at GitHub, if that is a way in.
    github: Option<String>,
    /// Number of its second factors.
    second_factors: usize,
}

/// A change of the caller's account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MeChange)]
pub(super) struct MeRequest {
    /// What to call the user; null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Change<Text<255>>,
}

/// The caller's account
#[utoipa::path(
    get, path = "/api/users/me", tag = "accounts",
    responses((status = 200, description = "The account", body = MeBody))
)]
pub(super) async fn get(
    caller: User<needs::Read>,
    State(sign_in): State<SignIn>,
) -> Result<Json<MeBody>, Problem> {
    Ok(Json(sign_in.me(caller.user_id, caller.role).await?))
}

/// Changes the caller's account
#[utoipa::path(
    patch, path = "/api/users/me", tag = "accounts",
    request_body = MeRequest,
    responses(
        (status = 200, description = "Changed", body = MeBody),
        (status = 403, description = "For people who have signed in", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
        (status = 429, description = "More than ten changes a minute", body = ProblemBody),
    )
)]
pub(super) async fn change(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    request: Request,
) -> Result<Json<MeBody>, Problem> {
    let by = By::user(caller.user_id, caller.address, request.headers());
    let Json(body) = Json::<MeRequest>::from_request(request, &()).await?;
    sign_in.0.changes.check(caller.user_id)?;
    let change = UserChange { name: body.name.map(Text::into_string), ..UserChange::default() };
    let (user, now) = (caller.user_id, sign_in.now());
    sign_in.0.log.record(user, AccountAction::ProfileChanged, None, None, &by).await?;
    let changing = sign_in.in_transaction(async |tx| Ok(users::update(tx, user, &change, now).await?));
    changing.await?.ok_or(SignInError::Barred)?;
    sign_in.0.credentials.accounts().forget(&[user]);
    Ok(Json(sign_in.me(user, caller.role).await?))
}

impl SignIn {
    async fn me(&self, user: UserId, role: Role) -> Result<MeBody, SignInError> {
        let mut conn = self.connection().await?;
        let account = users::read(&mut conn, user).await?;
        let account = account.filter(|account| account.status != AccountStatus::Erased);
        let account = account.ok_or(SignInError::Barred)?;
        let email = people::identity(&mut conn, user, IdentityKind::Email).await?;
        let github = people::identity(&mut conn, user, IdentityKind::GitHub).await?;
        let has_password = passwords::hash(&mut conn, user).await?.is_some();
        let factors = second_factors::confirmed(&mut conn, user).await?;
        Ok(MeBody {
            user_id: user.get(),
            role,
            external_id: account.external_id,
            contact_email: account.email,
            name: account.name,
            created_at: account.created_at,
            sign_in: WaysIn {
                email_verified: email.as_ref().is_some_and(|email| email.verified_at.is_some()),
                email: email.map(|email| email.label),
                has_password,
                github: github.map(|github| github.label),
                second_factors: factors.len(),
            },
        })
    }
}
