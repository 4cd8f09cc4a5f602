//! Parts that plans work with.

use std::sync::Arc;

use url::Url;

use super::on_sale::OnSale;
use crate::facts::{Projections, Turns, Writer};
use crate::http::throttle::Throttle;
use crate::limits::Limits;

/// Plans and their changes. Cheap to clone.
#[derive(Clone)]
pub struct Plans(pub(super) Arc<Parts>);

/// Parts of [`Plans`].
pub(crate) struct Parts {
    /// Plans on sale, and users' subscriptions.
    pub(crate) projections: Projections,
    /// Changes of plan.
    pub(crate) writer: Writer,
    /// Held to a change before the projections have it.
    pub(crate) limits: Limits,
    /// One decision at a time per user, each on top of the one before, which it waits for until the projections show
    /// it.
    pub(crate) turns: Turns<LastChange>,
    /// Paces what users ask for themselves.
    pub(crate) own_changes: Throttle,
    /// What everybody may ask for.
    pub(crate) on_sale: OnSale,
    /// `SELF_UPGRADE`.
    pub(crate) self_upgrade: bool,
    /// `UPGRADE_URL`.
    pub(crate) upgrade_url: Option<Url>,
}

/// The last plan change that this instance recorded, of any user of a stripe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastChange {
    /// Sequence of its frame.
    pub(super) seq: u64,
    /// A later one may be in the log, at a sequence that nobody was told.
    pub(super) is_lost: bool,
}

impl Plans {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl LastChange {
    /// The last change before the start: one of an earlier process may be anywhere up to the log's last sequence.
    pub(crate) fn before(last_seq: u64) -> Self {
        Self { seq: last_seq, is_lost: false }
    }
}
