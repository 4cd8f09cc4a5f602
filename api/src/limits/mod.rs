//! Limits that hold: exact on one instance.
//!
//! The decision is pure ([`ledger::limit`]); a warm user's call is decided in memory. Whatever is admitted counts from
//! that instant, until its position in the log (or the proof that it has none) is known and the projection contains it.
//! Reads projections, asks the log how far it is, hands admitted calls and gathered refusals to the publisher.
//!
//! * `limiter` decides; `gate` says whether this process may decide at all, and `lock` keeps a second one from it.
//! * `counts` is the seam for leases: what a decision needs to know of a user, whatever the source. `projected` is
//!   today's source, with `tally` for one user, `table` for all of them, and `reader`, which reads many at once.
//! * `backlog` says who has to wait while the projection is behind, by the `shares` of those who report.
//! * `admission` holds the units of an admitted call until its fate is known, and `fates` settles them.
//! * `refusal` is the answer to a refused call; `rejections` gathers its event; `headers` tell how the user stands.

mod admission;
mod ask;
mod backlog;
mod counts;
mod error;
mod fates;
mod gate;
mod headers;
mod limiter;
mod lock;
mod log_end;
mod projected;
mod reader;
mod refusal;
mod rejections;
mod shares;
mod table;
mod tally;

pub use admission::{Admission, Recording};
pub use ask::{Ask, AskKey, Cost, KeyStanding, Policy, Standing};
pub use backlog::Stage;
pub use error::{LimitsError, Unready};
pub use headers::append_usage_headers;
pub use limiter::{Limits, LimitsParts, Preview, Verdict};
pub use lock::StartError;
pub use refusal::Refusal;
pub use tally::PlanDecision;
