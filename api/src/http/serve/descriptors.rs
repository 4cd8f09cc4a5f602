//! File descriptors: as many as the system allows, and some kept back.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that PostgreSQL, NATS, providers, listeners and files need whatever clients do.
const KEPT_BACK: u64 = 256;
/// Connections when nobody says how many descriptors there are.
const UNKNOWN: u64 = 512;

/// Connections that there are descriptors for. Raises the limit to what the system allows, at the first call.
pub(super) fn for_connections() -> usize {
    static DESCRIPTORS: OnceLock<u64> = OnceLock::new();
    let descriptors = *DESCRIPTORS.get_or_init(|| raise().unwrap_or(UNKNOWN + KEPT_BACK));
    usize::try_from(descriptors.saturating_sub(KEPT_BACK)).unwrap_or(usize::MAX)
}

/// The limit of open files after raising it.
fn raise() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Ok(hard),
        Err(error) => {
            tracing::warn!(%error, limit = soft, "the limit of open files stays as it is");
            Ok(soft)
        }
    }
}
