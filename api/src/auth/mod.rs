//! Who is calling: bearer tokens, the principals they name, and what a handler's signature says about who may call it.
//!
//! A handler takes [`User`], [`UserOrAdmin`], [`UserOnly`] or [`ServiceOrAdmin`]; a request that does not qualify never
//! reaches it. What only an admin may do, a user may do for itself where a setting says so: such a handler takes
//! [`User`] and asks for the role. Every way in which a credential can be wrong gives the same 401.

pub mod accounts;
mod failures;
mod principal;
mod token;

pub(crate) use principal::Seen;
pub use principal::{Principal, ServiceOrAdmin, User, UserOnly, UserOrAdmin, authenticate};
pub use token::{ISSUER, JwtSettings, Mint, MintError, Role, mint};

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use ledger::Clock;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use crate::http::problem::Problem;
use failures::Failures;
use token::{Reason, Verified, Verifier};

/// Tokens whose signature need not be checked again. An entry takes about 200 bytes.
const VERIFIED_TOKENS: usize = 50_000;

/// Verifies bearer tokens. Cheap to clone.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    verifier: Verifier,
    clock: Clock,
    /// By SHA-256 of the token, so that no token lies in memory longer than its request. Times are checked on every
    /// use; the rest of a token cannot change.
    verified: Cache<[u8; 32], Arc<Verified>>,
    failures: Failures,
}

impl Auth {
    /// Accepts tokens as `settings` says, at the time of `clock`.
    pub fn new(settings: &JwtSettings, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            verifier: Verifier::new(settings),
            clock,
            verified: Cache::new(VERIFIED_TOKENS),
            failures: Failures::default(),
        }))
    }

    /// Checks the bearer token of a request that came from `address`.
    pub(crate) fn verify(&self, headers: &HeaderMap, address: IpAddr) -> Result<Arc<Verified>, Problem> {
        let Some(token) = bearer(headers) else {
            return Err(self.refuse(Reason::Missing, None));
        };
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.0.clock.now().timestamp();
        let verified = match self.0.verified.get(&hash) {
            Some(verified) => verified,
            None => match self.0.verifier.verify(token) {
                Ok(verified) => {
                    let verified = Arc::new(verified);
                    // A token that is not valid now is not worth a place in the cache.
                    if verified.valid_at(now).is_ok() {
                        self.0.verified.insert(hash, Arc::clone(&verified));
                    }
                    verified
                }
                Err(reason) => return Err(self.refuse(reason, Some(address))),
            },
        };
        match verified.valid_at(now) {
            Ok(()) => Ok(verified),
            Err(reason) => Err(self.refuse(reason, Some(address))),
        }
    }

    /// Counts a credential that named nobody. A valid signature does not help somebody who does not exist.
    pub(crate) fn refuse_unknown_user(&self, address: IpAddr) -> Problem {
        self.refuse(Reason::UnknownUser, Some(address))
    }

    /// 401, or 429 when `address` has failed too often. A missing credential is no failed one.
    fn refuse(&self, reason: Reason, address: Option<IpAddr>) -> Problem {
        metrics::counter!("auth_failures_total", "reason" => reason.as_str()).increment(1);
        match address.and_then(|address| self.0.failures.record(address, self.0.clock.now())) {
            Some(retry_after_s) => {
                Problem::rate_limited("Too many failed credentials from this address.", retry_after_s)
            }
            None => Problem::unauthorized(),
        }
    }
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(axum::http::header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    // Two credentials are none: whichever one is chosen, somebody in front may have chosen the other.
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
