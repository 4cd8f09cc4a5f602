//! Limits that hold.

mod tally;
