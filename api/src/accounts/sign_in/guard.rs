//! What stands before every sign-in: https, the same site, and patience with those who fail.

use std::net::IpAddr;

use axum::http::request::Parts as RequestParts;

use super::error::SignInError;
use super::parts::SignIn;
use crate::auth::AuthError;

impl SignIn {
    /// Refuses what came in the clear, what a page of another site sent, which could sign its reader in as somebody
    /// else, and an address that has failed too often.
    pub(super) fn must_be_own_page(&self, request: &RequestParts) -> Result<(), SignInError> {
        let auth = &self.0.auth;
        auth.must_be_secure(request)?;
        auth.must_be_patient(auth.address(request))?;
        let site = request.headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
        match site {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) => Err(AuthError::CrossSite.into()),
        }
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
