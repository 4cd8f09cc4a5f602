//! Common parts of requests about tokens: owner, name, client, and the form of a token.

use std::borrow::Cow;
use std::str::FromStr;

use axum::http::request::Parts;
use serde::de::{Deserialize, Deserializer, Error};
use uuid::Uuid;
use vault::{SecretText, TokenKind, TokenRefused};

use super::body::Warning;
use super::error::TokensError;
use crate::auth::Principal;
use crate::http::client::user_agent;

/// A token's type, whose error does not repeat what was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(pub(super) TokenKind);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SecretText::deserialize(deserializer)?;
        TokenKind::from_str(text.expose()).map(Self).map_err(D::Error::custom)
    }
}

/// Form that a field of these routes' bodies must have, for people.
pub(super) fn must_be(name: &str) -> &'static str {
    match name {
        "token_type" => "the token type must be one of github, openai, anthropic, gemini",
        "token" => "the token must be text",
        _ => "the name must be text of 1 to 255 bytes without control characters",
    }
}

/// Checks that the token may be one of this kind; 422 says why not, and never what it was.
pub(super) fn check(kind: TokenKind, token: &SecretText) -> Result<Vec<Warning>, TokenRefused> {
    Ok(kind.check(token)?.map(Warning::from).into_iter().collect())
}

/// The name is kept and shown in the clear, so the token is no part of it.
pub(super) fn check_name(name: &str, token: &SecretText) -> Result<(), TokensError> {
    if name.contains(token.expose()) {
        return Err(TokensError::NameHoldsToken);
    }
    Ok(())
}

/// Client that asks, and its program.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) principal: Principal,
    pub(super) user_agent: Option<String>,
}

impl Client {
    pub(super) fn of(principal: Principal, parts: &Parts) -> Self {
        Self { principal, user_agent: user_agent(&parts.headers).map(Cow::into_owned) }
    }
}

/// The id in a path. Whatever is none names nothing, and is repeated nowhere.
pub(super) fn token_id(text: &str) -> Result<Uuid, TokensError> {
    Uuid::try_parse(text).map_err(|_| TokensError::NoSuchToken)
}
