//! Turns files into calls.

mod call;
mod combined;
mod json;
mod lines;
mod mapping;
