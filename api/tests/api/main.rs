//! The api through its real router, on the real PostgreSQL and nats-server. One program, so that the servers start
//! once.

mod bad_input;
mod idempotency;
mod openapi;
mod operations;
mod security;
mod support;
mod users;
