//! Calls from socket to summary: admitted, recorded, completed.

mod check;
mod forward_auth;
mod outage;
mod outcome;
mod paths;
mod proxies;
mod requests;
