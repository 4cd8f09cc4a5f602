//! Counts of one user, as a decision needs them: the place where another source of counts is plugged in.
//!
//! The decision is [`ledger::limit::decide`], the same whatever it counts by. Today's source is a `tally`: what the
//! projections counted at a watermark, and our own units beyond it; `projected` keeps one for each user. Leases are to
//! be the next source: units that PostgreSQL granted to this process, taken in memory. A user's lease implements
//! [`Counts`], and a table of leases stands where `projected` stands, with whatever fences it in the place of the
//! gate's lock and floor. What decides, holds and refuses stays as it is.

use ledger::Month;
use ledger::limit::{self, Decision};

use super::ask::{Ask, Cost, Standing};

/// Answer to an ask.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// All units are taken; they count until they are settled.
    Admitted(Standing),
    /// No unit is taken.
    Refused(Standing),
    /// Nothing is known yet about this user and month.
    Unread,
}

/// Counts of one user. A unit counts from the instant at which it is taken until it is released, or until it is settled
/// and the source counts it by itself. It is never missing; for an instant it may count twice, which only refuses.
pub(super) trait Counts {
    /// Standing of the user in the ask's month, under the plan in force at its instant, and of its API key if that has
    /// a budget; none while one of it is not known.
    fn standing(&self, ask: &Ask) -> Option<Standing>;

    /// Takes units, whatever the limit says.
    fn take(&mut self, month: Month, cost: Cost);

    /// Gives back units taken earlier that are certainly not in the log.
    fn release(&mut self, month: Month, cost: Cost);

    /// Settles units taken earlier that are in the log at this sequence.
    fn settle(&mut self, month: Month, cost: Cost, seq: u64);

    /// Decides, and takes the units of an admitted call: all that its plan and its key have to give, or none.
    fn admit(&mut self, ask: &Ask) -> Answer {
        let Some(standing) = self.standing(ask) else { return Answer::Unread };
        if !is_allowed(&standing, ask) {
            return Answer::Refused(standing);
        }
        self.take(ask.month, ask.cost());
        Answer::Admitted(standing.with(ask))
    }

    /// Decides without taking anything.
    fn preview(&self, ask: &Ask) -> Answer {
        match self.standing(ask) {
            None => Answer::Unread,
            Some(standing) if is_allowed(&standing, ask) => Answer::Admitted(standing),
            Some(standing) => Answer::Refused(standing),
        }
    }

    /// Takes the units whatever the limit says (shadow mode, failure mode open). Answers how the user stands then,
    /// if that is known.
    fn force(&mut self, ask: &Ask) -> Option<Standing> {
        self.take(ask.month, ask.cost());
        self.standing(ask)
    }
}

/// The plan decides as [`limit::decide`] says, and the key's budget beside it.
fn is_allowed(standing: &Standing, ask: &Ask) -> bool {
    let by_plan = limit::decide(standing.terms.limits, standing.used, ask.units, ask.category);
    matches!(by_plan, Decision::Allowed { .. }) && standing.violated(ask).next().is_none()
}
