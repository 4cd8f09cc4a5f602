//! Parts that metering works with.

use std::sync::Arc;

use ledger::Rules;
use tokio_util::task::TaskTracker;

use super::recent::RecentCalls;
use super::requests::Requests;
use super::sealer::Sealer;
use super::turns::CallTurns;
use crate::config::{Enforcement, ForwardAuth};
use crate::facts::{Projections, Writer};
use crate::http::client::TrustedProxies;
use crate::limits::Limits;

/// Calls that ask to be admitted, recorded and completed. Cheap to clone.
#[derive(Clone)]
pub struct Metering(pub(super) Arc<Parts>);

/// Parts of [`Metering`].
pub(crate) struct Parts {
    /// Rules that say what a call counts as.
    pub(crate) rules: Rules,
    /// `ENFORCEMENT`.
    pub(crate) enforcement: Enforcement,
    /// Decides about calls.
    pub(crate) limits: Limits,
    /// Seals what is known of the person behind a call.
    pub(crate) sealer: Sealer,
    /// Recorded calls.
    pub(crate) projections: Projections,
    /// Completions.
    pub(crate) writer: Writer,
    /// Calls of late.
    pub(crate) recent: RecentCalls,
    /// One completion of a call at a time.
    pub(crate) turns: CallTurns,
    /// What proxies may say, and what they pass.
    pub(crate) forward_auth: ForwardAuth,
    /// `TRUSTED_PROXIES`.
    pub(crate) proxies: TrustedProxies,
    /// Requests that trusted proxies asked about.
    pub(crate) requests: Requests,
    /// Decisions about requests, which go on when nobody waits for them any more.
    pub(crate) tasks: TaskTracker,
}

impl Metering {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}
