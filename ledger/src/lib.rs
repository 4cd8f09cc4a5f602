//! Pure domain of the usage ledger: months, plans, rules and the limit decision.
