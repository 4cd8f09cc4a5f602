//! The api through its real router, on the real PostgreSQL, nats-server and worker. One program, so that it is linked
//! once and the servers start once; a folder is the capability that it tests.

mod accounts;
mod answers;
mod auth;
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod customer;
mod http;
mod ingest;
mod limits;
mod metering;
mod operations;
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod plans;
mod programs;
mod tokens;
mod usage;
mod users;
mod web;
