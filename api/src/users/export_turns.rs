//! How many exports are under way, and whose.

use std::collections::HashSet;
use std::sync::Arc;

use ledger::UserId;
use parking_lot::Mutex;

use crate::http::problem::Problem;

/// Exports that are written at once. Each has a page in memory, and a connection to PostgreSQL while it reads one.
const AT_ONCE: usize = 8;
/// Seconds after which a caller is told to ask again.
const RETRY_AFTER_S: u64 = 5;

/// The callers whose exports are under way: one of each, and some of all. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Exports(Arc<Mutex<HashSet<UserId>>>);

/// The right to write one export; it ends with this.
#[derive(Debug)]
pub(crate) struct ExportTurn {
    exports: Exports,
    caller: UserId,
}

impl Exports {
    /// 429 while the caller has one under way, 503 while there are too many.
    pub(crate) fn begin(&self, caller: UserId) -> Result<ExportTurn, Problem> {
        let mut callers = self.0.lock();
        if callers.contains(&caller) {
            return Err(Problem::rate_limited("An earlier export is still under way.", RETRY_AFTER_S));
        }
        if callers.len() >= AT_ONCE {
            return Err(Problem::busy("Too many exports are under way; try again."));
        }
        callers.insert(caller);
        drop(callers);
        Ok(ExportTurn { exports: self.clone(), caller })
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
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

    #[test]
    fn one_of_each_caller_and_some_of_all() {
        let exports = Exports::default();
        let caller = |n: usize| UserId::new(Uuid::from_u128(n as u128));
        let turns: Vec<_> = (0..AT_ONCE).map(|n| exports.begin(caller(n)).unwrap()).collect();
        assert_eq!(exports.begin(caller(0)).unwrap_err().status(), 429);
        assert_eq!(exports.begin(caller(AT_ONCE)).unwrap_err().status(), 503);
        drop(turns);
        assert_eq!(exports.under_way(), 0);
        exports.begin(caller(0)).unwrap();
        exports.begin(caller(0)).unwrap();
    }
}
