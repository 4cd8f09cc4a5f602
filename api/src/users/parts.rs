//! Parts that users work with.

use std::sync::Arc;

use data_keys::Keys;
use tokio_util::task::TaskTracker;

use super::export_turns::ExportTurns;
use crate::auth::Accounts;
use crate::facts::{Projections, Writer};
use crate::http::throttle::Throttle;

/// Users, from their making to their end. Cheap to clone.
#[derive(Clone)]
pub struct Users(pub(super) Arc<Parts>);

/// Parts of [`Users`].
pub(crate) struct Parts {
    /// Accounts.
    pub(crate) accounts: Accounts,
    /// Users' data keys, destroyed with them.
    pub(crate) data_keys: Keys,
    /// All that is held of a user.
    pub(crate) projections: Projections,
    /// Erasures.
    pub(crate) writer: Writer,
    /// Paces what costs much to read.
    pub(crate) reads: Throttle,
    /// Exports that are under way.
    pub(crate) exports: ExportTurns,
    /// Exports go on after the answer has begun; a shutdown waits for them.
    pub(crate) tasks: TaskTracker,
}

impl Users {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Exports that are under way now.
    pub fn exports_under_way(&self) -> usize {
        self.0.exports.under_way()
    }
}
