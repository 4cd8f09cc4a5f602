//! Verification: whether log, rows and sums agree, and whether what is sealed for a user opens.
//!
//! Counts by `recount/`, which adds up by other code than the projector's. Changes nothing.

mod error;
mod sealed;

use ledger::UserId;

use crate::job::{Compared, Rebuild};
use crate::recount::{Count, Mends, Scope};

pub use crate::recount::ScratchError;
pub use error::VerifyError;
pub use sealed::{Fault, SealedReport, Tried, open_all};

/// Counts the log up to the checkpoint, and compares it with the stored sums, with the calls themselves, and with the
/// audit chains link by link, and the calls with the hours that are compacted; of one user, or of all. Each table is
/// seen as at one instant, beside a projector that goes on. That the calls after a month's last reset make its summary
/// follows: both are as the log has them, the positions of the calls included.
pub async fn verify(rebuild: &Rebuild<'_>, user: Option<UserId>) -> Result<Compared, VerifyError> {
    let count = Count::start(rebuild, user, Scope::Everything).await?;
    Ok(count.compare(None::<NoMending>).await?)
}

type NoMending = fn(&Mends) -> std::future::Ready<Result<(), store::Error>>;
