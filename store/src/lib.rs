//! Plain async functions over PostgreSQL: one file per table family.
