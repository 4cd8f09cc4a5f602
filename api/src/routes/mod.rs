//! One endpoint, or a tight pair of verbs, per file; each ends with its `router()`.

pub(crate) mod docs;
pub(crate) mod healthz;
pub(crate) mod readyz;
pub(crate) mod users;
