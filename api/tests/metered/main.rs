//! Calls from socket to summary: admitted, recorded, reported, completed, held to their limit. Through the real router,
//! PostgreSQL, nats-server and worker. So too what users keep in the vault.

mod check;
mod data_keys;
mod events;
mod events_forms;
mod flood;
mod forward_auth;
mod limits;
mod nginx;
mod outage;
mod outcome;
mod paths;
mod suspension;
mod vault;
mod world;
