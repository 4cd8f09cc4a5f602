//! Parts that ingest works with.

use super::intake::Intake;
use super::unpack::Unpacker;
use crate::facts::Writer;

/// Reports of calls that happened. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    pub(super) intake: Intake,
    pub(super) writer: Writer,
    /// `USER_INGEST`.
    pub(super) takes_users_own: bool,
    pub(super) unpacker: Unpacker,
}

impl Ingest {
    /// Takes reports in by `intake`; with `user_ingest` also users' own.
    pub(crate) fn new(intake: Intake, writer: Writer, user_ingest: bool) -> Self {
        Self { intake, writer, takes_users_own: user_ingest, unpacker: Unpacker::new() }
    }
}
