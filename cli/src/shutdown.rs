//! Requests to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A cancellation token for SIGINT and SIGTERM. A second signal does not hurry: what is answered is acknowledged first.
pub(crate) fn on_signals() -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!("asked to stop");
            cancelled.cancel();
        }
    });
    Ok(shutdown)
}
