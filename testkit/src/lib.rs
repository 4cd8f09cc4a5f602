//! Real servers, databases, streams and tokens for the tests of every crate.
//!
//! [`Env::start`] gives a test its own migrated database and its own stream on servers that all tests share;
//! [`PrivateServers`] are a test's own, to be killed and started again. A [`World`] is a real api, and a real worker
//! where asked for, in such an [`Env`].
//!
//! The shared servers are those of `TEST_DATABASE_URL`, `TEST_NATS_URL` and `TEST_NATS_MONITOR_URL` (`make test` starts
//! them once for all test programs), else each test program starts its own, which end with it.

mod database;
mod env;
mod figures;
mod frozen;
mod http;
mod private;
mod servers;
mod token;
mod wait;
mod world;

pub use database::Database;
pub use env::Env;
pub use frozen::Frozen;
pub use http::{Answer, Client, Request};
pub use private::PrivateServers;
pub use servers::Servers;
pub use token::{ENCRYPTION_KEY, JWT_SECRET, Role, Token, keys};
pub use wait::wait_until;
pub use world::{Api, PATIENCE, Worker, World};
