//! What the api reads from the projections, through its real router and a real PostgreSQL and nats-server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agreement;
mod calls;
mod history;
mod plans;
mod reset;
mod seed;
mod snapshot;
mod statements;
mod stats;
mod world;
