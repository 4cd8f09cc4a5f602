//! The sealed format from outside: against its standard, against other programs, and against tampering.

mod common;
mod key_ring;
mod properties;
mod reference;
mod rfc7518;
mod secrecy;
mod tampering;
