//! The one binary of the usage ledger.
fn main() {}
