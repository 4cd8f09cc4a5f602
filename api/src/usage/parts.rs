//! Parts that usage works with.

use std::sync::Arc;

use crate::facts::{Projections, Writer};
use crate::http::throttle::Throttle;
use crate::limits::Limits;

/// Usage of users. Cheap to clone.
#[derive(Clone)]
pub struct Usage(pub(super) Arc<Parts>);

/// Parts of [`Usage`].
pub(crate) struct Parts {
    /// Figures.
    pub(crate) projections: Projections,
    /// Resets.
    pub(crate) writer: Writer,
    /// Told of a reset.
    pub(crate) limits: Limits,
    /// Paces what costs much to read.
    pub(crate) reads: Throttle,
    /// Paces what users ask for themselves.
    pub(crate) own_changes: Throttle,
    /// `SELF_RESET`.
    pub(crate) self_reset: bool,
}

impl Usage {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}
