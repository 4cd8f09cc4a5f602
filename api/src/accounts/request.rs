//! Common parts of requests about API keys.

use axum::extract::Request;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use credentials::{KeyRole, Networks, Scope, Scopes};
use events::Personal;
use ledger::{KeyId, UserId, WholeNumber};
use serde::de::{Deserialize, Deserializer, Error};
use store::identity::users::Change;
use uuid::Uuid;

use super::by::By;
use super::error::ApiKeysError;
use crate::auth::{Auth, AuthError, Principal};
use crate::http::client::user_agent;
use crate::http::extract::OwnerQuery;

/// Most units of a budget.
pub(super) const MAX_BUDGET: u64 = i64::MAX.unsigned_abs();

/// Role of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role(pub(super) KeyRole);

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// Scopes of a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ScopeList(pub(super) Scopes);

impl<'de> Deserialize<'de> for ScopeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let scopes: Result<Scopes, _> = names.iter().map(|name| name.parse::<Scope>()).collect();
        scopes.map(Self).map_err(D::Error::custom)
    }
}

/// Networks of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct NetworkList(pub(super) Networks);

impl<'de> Deserialize<'de> for NetworkList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Networks::parse(&texts).map(Self).map_err(D::Error::custom)
    }
}

/// Units of a budget: what a column holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(pub(super) u64);

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = WholeNumber::<0>::deserialize(deserializer)?.get();
        if units <= MAX_BUDGET {
            return Ok(Self(units));
        }
        Err(D::Error::custom(format!("a budget is at most {MAX_BUDGET}")))
    }
}

/// A time as the log and the tables hold it.
#[derive(Clone, Copy, Debug)]
pub(super) struct End(pub(super) DateTime<Utc>);

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = ledger::time::parse(&text).filter(|at| *at < ledger::Month::LAST.end());
        at.map(Self).ok_or_else(|| D::Error::custom("a time is like 2027-01-31T12:00:00Z"))
    }
}

/// A field that is there: null clears. One that is absent never comes here.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Change<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or(Change::Clear, Change::Set))
}

/// The caller as the one who acts on the keys of `owner`. An admin is named as the actor and no more, as in the audit
/// of tokens.
pub(super) fn by(caller: &Principal, owner: UserId, parts: &Parts) -> By {
    let agent = user_agent(&parts.headers).map(|agent| agent.into_owned().into());
    let personal = (caller.user_id == owner).then(|| Personal::of_client(Some(caller.address), agent));
    By { actor: caller.actor(), personal }
}

/// A change that a caller asks for: whose keys, who acts, and the request, of which the body is still to be read.
pub(super) struct Asked {
    pub(super) owner: UserId,
    pub(super) by: By,
    pub(super) request: Request,
}

/// Finds out whose keys are to be changed, and by whom.
pub(super) async fn asked(
    auth: &Auth,
    caller: &Principal,
    query: &OwnerQuery,
    request: Request,
) -> Result<Asked, AuthError> {
    let owner = auth.resolve_living(caller, query.user_id.as_deref()).await?;
    let (parts, body) = request.into_parts();
    let by = by(caller, owner, &parts);
    Ok(Asked { owner, by, request: Request::from_parts(parts, body) })
}

/// The id in a path. Whatever is none names nothing, and is repeated nowhere.
pub(super) fn key_id(text: &str) -> Result<KeyId, ApiKeysError> {
    Uuid::try_parse(text).map(KeyId::new).map_err(|_| ApiKeysError::NoSuchKey)
}
