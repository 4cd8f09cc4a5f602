//! Beginning of a session: what every way to sign in comes to.

use std::net::IpAddr;

use axum::Json;
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::Secret;
use events::AccountAction;
use ledger::UserId;
use serde::Serialize;
use store::identity::credential_changes::Changed;
use store::identity::sessions::{self, Inserted, Method, NewSession};
use store::identity::{known_addresses, second_factors};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::SignInError;
use super::parts::{SignIn, hold, new_secret};
use crate::accounts::by::By;
use crate::auth::csrf_token;
use crate::http::client::{party, user_agent};
use crate::http::site::Cookie;

/// Somebody is signed in, but for the second factor perhaps.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignedIn)]
pub(super) struct SignedInBody {
    /// The user.
    user_id: Uuid,
    /// Whether the second factor is still to be shown (`POST /api/auth/factors/verify`): until then the session is
    /// good for nothing else.
    needs_second_factor: bool,
    /// To be sent as `X-CSRF-Token` with all that changes something. It changes with the session's secret.
    csrf_token: String,
}

/// A session that has begun, and its secret.
pub(super) struct Begun {
    user: UserId,
    secret: Secret,
    is_pending: bool,
}

impl Begun {
    /// A session that goes on with another secret.
    pub(super) fn of(user: UserId, secret: Secret) -> Self {
        Self { user, secret, is_pending: false }
    }

    /// Whether the second factor is still to be shown.
    pub(super) fn is_pending(&self) -> bool {
        self.is_pending
    }

    /// What the page gets to know of it.
    pub(super) fn into_body(self) -> SignedInBody {
        SignedInBody {
            user_id: self.user.get(),
            needs_second_factor: self.is_pending,
            csrf_token: csrf_token(&self.secret),
        }
    }
}

impl SignIn {
    /// Signs the user in, who has shown to be it by `method`. A session that the browser had before ends: nobody goes
    /// on with one that was there before the sign-in.
    pub(super) async fn begin(
        &self,
        user: UserId,
        method: Method,
        request: &RequestParts,
    ) -> Result<Begun, SignInError> {
        let parts = &*self.0;
        let too_many = |retry_after_s| SignInError::TooManyTries { retry_after_s };
        parts.sign_ins.wait(&user).map_err(too_many)?;
        let (address, now) = (parts.auth.address(request), self.now());
        let secret = new_secret()?;
        let session = NewSession {
            id: parts.log.new_id(),
            hash: secret.hash(),
            user,
            method,
            at: now,
            ends_at: parts.credentials.sessions().lifetime().end(now),
            address: address.to_string(),
            user_agent: user_agent(&request.headers).map(std::borrow::Cow::into_owned),
        };
        let by = By::user(user, address, &request.headers);
        let mut conn = self.connection().await?;
        let factors = second_factors::confirmed(&mut conn, user).await?;
        drop(conn);
        if factors.is_empty() {
            parts
                .log
                .record(user, AccountAction::SignedIn, Some(method.as_str()), Some(session.id), &by)
                .await?;
        }
        let inserted = self
            .in_transaction(async |tx| {
                let inserted = sessions::insert(tx, &session).await?;
                if inserted == (Inserted::New { is_pending: false }) {
                    known_addresses::note(tx, user, party(address), now).await?;
                }
                Ok(inserted)
            })
            .await?;
        let Inserted::New { is_pending } = inserted else { return Err(SignInError::Barred) };
        self.end_earlier(request).await;
        Ok(Begun { user, secret, is_pending })
    }

    /// Notes that the second factor was shown: the session gets another secret, and may do all that its user may.
    pub(super) async fn complete(
        &self,
        user: UserId,
        session: Uuid,
        address: IpAddr,
    ) -> Result<Begun, SignInError> {
        let (secret, now) = (new_secret()?, self.now());
        let completing = self.in_transaction(async |tx| {
            // Nothing of a user who was erased meanwhile.
            hold(tx, user).await?;
            known_addresses::note(tx, user, party(address), now).await?;
            let is_there = sessions::renew(tx, session, &secret.hash(), Some(now)).await?;
            if is_there { Ok(()) } else { Err(SignInError::NoSuchSession) }
        });
        completing.await?;
        self.0.credentials.forget(Changed::Session(session));
        Ok(Begun::of(user, secret))
    }

    /// Ends the session whose cookie the request has, if it has one.
    async fn end_earlier(&self, request: &RequestParts) {
        let Some(earlier) = self.0.site.secret(&request.headers, Cookie::Session) else { return };
        let ending = self.in_transaction(async |tx| {
            let Some(found) = sessions::find(tx, &earlier.hash()).await? else { return Ok(None) };
            sessions::end(tx, found.user, found.id).await?;
            Ok(Some(found.id))
        });
        match ending.await {
            Ok(Some(id)) => self.0.credentials.forget(Changed::Session(id)),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "an earlier session of a browser goes on"),
        }
    }

    /// The cookie that gives the browser its session.
    pub(super) fn session_cookie(&self, begun: &Begun) -> HeaderValue {
        let lasts = self.0.credentials.sessions().lifetime().max;
        self.0.site.set(Cookie::Session, &begun.secret, lasts)
    }

    /// The answer that gives the browser its session.
    pub(super) fn signed_in(&self, begun: Begun) -> Response {
        let cookie = self.session_cookie(&begun);
        (StatusCode::OK, [(header::SET_COOKIE, cookie)], Json(begun.into_body())).into_response()
    }
}
