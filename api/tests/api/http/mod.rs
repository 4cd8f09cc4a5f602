//! Requests and answers of all routes: refusals, idempotency keys, the document.

mod bad_input;
mod connections;
mod explored;
mod idempotency;
mod kept;
mod openapi;
mod wording;
