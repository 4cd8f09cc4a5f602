//! Failures of plans.

use nats::{LogError, PublishError};

use crate::facts::TurnTimeout;

/// Reason why a plan is not changed.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    /// There is no such plan.
    #[error("there is no such plan; the plans are {}", on_sale.join(", "))]
    UnknownPlan {
        /// Names of the plans on sale.
        on_sale: Vec<String>,
    },
    /// Earlier changes take their time.
    #[error("earlier changes are still being recorded")]
    Turn(#[from] TurnTimeout),
    /// The projections do not show an earlier change yet.
    #[error("an earlier change is not projected yet")]
    NotProjected,
    /// The log does not say what became of an earlier change.
    #[error("the log does not say how far it is")]
    Log(#[from] LogError),
    /// The change is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database is away, or refuses.
    #[error("plans cannot be read")]
    Store(#[from] store::Error),
}
