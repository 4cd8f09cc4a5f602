//! `PUT /api/users/{user}`: the host tells us who its users are.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use ledger::{ExternalId, UserRef};
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::Acquire;
use store::identity::users::{self, AccountStatus, Change, User, UserChange};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::UsersError;
use super::parts::Users;
use crate::auth::{Principal, Role, ServiceOrAdmin, needs};
use crate::http::extract::{Json, Path, Text};
use crate::http::problem::{FieldError, Problem, ProblemBody};

/// What to change. An absent field stays as it is, null clears it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutUser {
    /// The host's id of the user: unique, case-sensitive, neither `me` nor a UUID.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 255)]
    external_id: Change<ExternalId>,
    /// Address.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 255)]
    email: Change<Text<255>>,
    /// Name.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 255)]
    name: Change<Text<255>>,
    /// A suspended user is refused everywhere with 403.
    status: Option<Status>,
}

/// Whether an account may be used.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Active,
    Suspended,
}

/// An account.
#[derive(Serialize, ToSchema)]
pub(super) struct UserBody {
    user_id: Uuid,
    external_id: Option<String>,
    email: Option<String>,
    name: Option<String>,
    status: Status,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// Makes or changes a user
///
/// `{user}` is our UUID or the host's external id. A user that is not there is made on the free plan. What changes who
/// a credential is, is an admin's alone: a service sets an external id only in the request that makes the account, and
/// no status of an account that an admin uses.
#[utoipa::path(
    put, path = "/api/users/{user}", tag = "users",
    params(("user" = String, Path, description = "UUID or external id")),
    request_body = PutUser,
    responses(
        (status = 200, description = "Changed", body = UserBody),
        (status = 201, description = "Made", body = UserBody),
        (status = 403, description = "Role service changes an external id after the account was made, or the status of an account that an admin uses", body = ProblemBody),
        (status = 409, description = "The external id is another user's, or the user was erased", body = ProblemBody),
        (status = 422, description = "A field is wrong", body = ProblemBody),
    )
)]
pub(super) async fn put_user(
    caller: ServiceOrAdmin<needs::Users>,
    State(users): State<Users>,
    Path(named): Path<String>,
    Json(body): Json<PutUser>,
) -> Result<(StatusCode, Json<UserBody>), Problem> {
    let named: UserRef = named.parse().map_err(|error| FieldError::invalid_parameter("user", &error))?;
    let (user, made) = users.put(&caller, &named, body).await?;
    Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, Json(user)))
}

impl Users {
    /// Makes or changes a user; answers it, and whether it was made.
    async fn put(
        &self,
        caller: &Principal,
        named: &UserRef,
        body: PutUser,
    ) -> Result<(UserBody, bool), UsersError> {
        let Self(parts) = self;
        let mut conn = parts.projections.connection().await?;
        let external_id = match body.external_id {
            Change::Keep => Change::Keep,
            Change::Clear => Change::Clear,
            Change::Set(id) => Change::Set(parts.data_keys.hash_external_id(id).await?),
        };
        let change = UserChange {
            external_id,
            email: body.email.map(Text::into_string),
            name: body.name.map(Text::into_string),
            status: body.status.map(|status| match status {
                Status::Active => AccountStatus::Active,
                Status::Suspended => AccountStatus::Suspended,
            }),
        };
        let mut tx = conn.begin().await.map_err(store::Error::from)?;
        let (user_id, made) = parts.accounts.find_or_make(&mut tx, named).await?;
        if caller.role == Role::Service && !made {
            let user = users::read_for_update(&mut tx, user_id).await?.ok_or(UsersError::Erased)?;
            may_change(&user, &change)?;
        }
        let now = parts.writer.now();
        let user = users::update(&mut tx, user_id, &change, now).await.map_err(taken)?;
        tx.commit().await.map_err(store::Error::from)?;
        parts.accounts.forget(&[user_id]);
        Ok((user.and_then(UserBody::of).ok_or(UsersError::Erased)?, made))
    }
}

/// Tells whether a service may change this account so: not who a credential is. Who bears another's external id is
/// that other, to whoever signs tokens with it; and a service that could suspend an admin could not be stopped by one.
fn may_change(user: &User, change: &UserChange) -> Result<(), UsersError> {
    let renamed = match &change.external_id {
        Change::Keep => false,
        Change::Clear => user.external_id.is_some(),
        Change::Set(external) => !user.external_id.as_ref().is_some_and(|own| external.id.is_stored_as(own)),
    };
    let barred = change.status.is_some_and(|status| status != user.status);
    match () {
        () if renamed => Err(UsersError::RenamedByService),
        () if barred && user.used_by_admin => Err(UsersError::AdminBarredByService),
        () => Ok(()),
    }
}

fn taken(error: store::Error) -> UsersError {
    match error.conflict() {
        Some(store::Constraint::UserExternalId) => UsersError::ExternalIdTaken,
        Some(store::Constraint::UserExternalIdHash) => UsersError::Erased,
        _ => error.into(),
    }
}

/// A field that is there: null clears. One that is absent never comes here.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Change<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or(Change::Clear, Change::Set))
}

impl UserBody {
    /// None of a user who was erased.
    fn of(user: User) -> Option<Self> {
        let status = match user.status {
            AccountStatus::Active => Status::Active,
            AccountStatus::Suspended => Status::Suspended,
            AccountStatus::Erased => return None,
        };
        Some(Self {
            user_id: user.user_id.get(),
            external_id: user.external_id,
            email: user.email,
            name: user.name,
            status,
            created_at: user.created_at,
            updated_at: user.updated_at,
        })
    }
}
