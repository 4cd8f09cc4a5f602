//! What stands before every sign-in: https, the same site, and patience with those who fail.

use std::net::IpAddr;

use axum::http::request::Parts as RequestParts;
use chrono::TimeDelta;

use super::error::SignInError;
use super::parts::SignIn;
use crate::auth::{AuthError, Principal, is_of_this_site};

/// Time within which somebody must have signed in who changes what the password, or nothing, protects.
const RECENT: TimeDelta = TimeDelta::minutes(15);

impl SignIn {
    /// Refuses what came in the clear, what a page of another site sent, which could sign its reader in as somebody
    /// else, and an address that has failed too often.
    pub(super) fn must_be_own_page(&self, request: &RequestParts) -> Result<(), SignInError> {
        let auth = &self.0.auth;
        auth.must_be_secure(request)?;
        auth.must_be_patient(auth.address(request))?;
        if is_of_this_site(&request.headers) { Ok(()) } else { Err(AuthError::CrossSite.into()) }
    }

    /// Refuses whose sign-in, or second factor, was longer ago than a quarter of an hour.
    pub(super) fn must_be_recent(&self, caller: &Principal) -> Result<(), SignInError> {
        let since = (self.now() - RECENT).timestamp();
        if caller.issued_at_s.is_some_and(|at| at >= since) { Ok(()) } else { Err(SignInError::Stale) }
    }

    /// Counts a failed credential; its refusal, or that of an address that has failed too often.
    pub(super) fn failed(&self, error: SignInError, address: IpAddr) -> SignInError {
        let reason = match error {
            SignInError::NoSuchLink => "link",
            _ => "password",
        };
        match self.0.auth.note_failure(reason, address) {
            Some(retry_after_s) => AuthError::TooManyFailures { retry_after_s }.into(),
            None => error,
        }
    }
}
