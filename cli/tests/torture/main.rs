//! Whole processes and real servers, killed, starved, misconfigured and carried over a month's end.

#[path = "../program/mod.rs"]
mod program;

mod book;
mod canary;
mod cluster;
mod erasure;
mod full;
mod kills;
mod load;
mod month_end;
mod outages;
mod providers;
mod refusals;
mod stalls;
mod tls;
mod traces;
