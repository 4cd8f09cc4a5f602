//! One endpoint, or a tight pair of verbs, per file; each ends with its `router()`.

pub(crate) mod calls;
pub(crate) mod check;
pub(crate) mod docs;
pub(crate) mod erase;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod forward_auth;
pub(crate) mod healthz;
pub(crate) mod history;
mod history_csv;
pub(crate) mod openmeter_events;
pub(crate) mod outcome;
pub(crate) mod plans;
pub(crate) mod readyz;
pub(crate) mod reset;
pub(crate) mod statements;
pub(crate) mod stats;
pub(crate) mod tokens;
pub(crate) mod upgrade;
pub(crate) mod user_plan;
pub(crate) mod users;
