//! Steps of the reconcilers, each bounded: a way to the database that has gone silent must not hold one up for ever.

use std::time::Duration;

/// A step that takes longer is given up, and its session with it.
const WITHIN: Duration = Duration::from_mins(1);

/// Does a step of `operation`, within a minute.
///
/// # Errors
/// The step's own, or that it took too long.
pub(crate) async fn step<T, E: From<store::Error>>(
    operation: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    store::within(operation, WITHIN, work).await
}
