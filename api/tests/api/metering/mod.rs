//! Calls from socket to summary: admitted, recorded, completed.

mod check;
mod forward_auth;
mod nginx;
mod outage;
mod outcome;
mod paths;
