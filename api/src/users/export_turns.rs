//! Exports that are under way: how many, and whose.

use std::collections::HashSet;
use std::sync::Arc;

use ledger::UserId;
use parking_lot::Mutex;

use super::error::UsersError;

/// Exports that are written at once, one of a caller: so many credentials it takes to keep others waiting. Each has a
/// page in memory, 1 MiB at most, and a connection to PostgreSQL while it reads one.
const AT_ONCE: usize = 64;
/// Seconds after which a caller is told to ask again.
const RETRY_AFTER_S: u64 = 5;

/// The callers whose exports are under way: one of each, and some of all. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExportTurns(Arc<Mutex<HashSet<UserId>>>);

/// The right to write one export; it ends with this.
#[derive(Debug)]
pub(crate) struct ExportTurn {
    exports: ExportTurns,
    caller: UserId,
}

impl ExportTurns {
    /// Begins one.
    ///
    /// # Errors
    /// The caller has one under way, or there are too many.
    pub(crate) fn begin(&self, caller: UserId) -> Result<ExportTurn, UsersError> {
        let mut callers = self.0.lock();
        if callers.contains(&caller) {
            return Err(UsersError::ExportUnderWay { retry_after_s: RETRY_AFTER_S });
        }
        if callers.len() >= AT_ONCE {
            return Err(UsersError::TooManyExports);
        }
        callers.insert(caller);
        drop(callers);
        Ok(ExportTurn { exports: self.clone(), caller })
    }

    /// Number of exports that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for ExportTurn {
    fn drop(&mut self) {
        self.exports.0.lock().remove(&self.caller);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::http::problem::Problem;

    #[test]
    fn one_of_each_caller_and_some_of_all() {
        let exports = ExportTurns::default();
        let caller = |n: usize| UserId::new(Uuid::from_u128(n as u128));
        let turns: Vec<_> = (0..AT_ONCE).map(|n| exports.begin(caller(n)).unwrap()).collect();
        let refused = |caller| Problem::from(exports.begin(caller).unwrap_err()).status();
        assert_eq!(refused(caller(0)), 429);
        assert_eq!(refused(caller(AT_ONCE)), 503);
        drop(turns);
        assert_eq!(exports.under_way(), 0);
        exports.begin(caller(0)).unwrap();
        exports.begin(caller(0)).unwrap();
    }
}
