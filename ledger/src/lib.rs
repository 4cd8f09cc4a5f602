//! Pure domain of the usage ledger: months, plans, rules and the limit decision.
//!
//! Nothing here does I/O. What comes from outside becomes one of these types at the edge, with an [`Invalid`] that
//! names a stable code, and is trusted from there on.

pub mod address;
pub mod clock;
pub mod duration;
pub mod endpoint;
pub mod forecast;
pub mod ids;
pub mod limit;
pub mod month;
pub mod number;
pub mod path;
pub mod plan;
pub mod report;
pub mod rules;
pub mod text;
pub mod time;
pub mod usage;

pub use clock::Clock;
pub use duration::{DurationError, parse_duration};
pub use endpoint::{Endpoint, Method};
pub use forecast::{Forecast, forecast};
pub use ids::{ExternalId, IdSource, KeyId, UserId, UserRef, derived_id};
pub use limit::{Decision, Limits, Percentage, Status, Used};
pub use month::Month;
pub use number::WholeNumber;
pub use path::{EncodedSlash, PathError};
pub use plan::{Currency, Money, Plan, PlanName};
pub use rules::{Classified, Rules, RulesError};
pub use text::Invalid;
pub use usage::{Category, Meter, StatusCode, Units};
