//! Real servers, databases, streams and tokens for the tests of every crate.
