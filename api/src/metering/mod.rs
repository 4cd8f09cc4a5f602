//! Metering: a call that asks to be admitted, recorded and completed.

pub(crate) mod call;
pub(crate) mod check;
pub mod complete;
pub(crate) mod forward_auth;
pub mod own_calls;
pub mod sealer;
