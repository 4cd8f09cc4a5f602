//! `GET /metrics` on `METRICS_ADDR`, apart from the public address: figures of a whole service are nobody else's
//! business.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::http::serve::{self, Bounds};

/// The process's recorder: `metrics` knows only one, whoever installs it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Seconds, from well below an fsync to a frame's longest wait.
const SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 1.0, 5.0, 60.0];
/// Seconds of what needs no disk.
const BRIEF_SECONDS: [f64; 8] =
    [0.000_001, 0.000_002, 0.000_004, 0.000_008, 0.000_032, 0.000_125, 0.001, 0.01];
/// Histograms that nobody scrapes are emptied this often, so that they do not grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// Connections at a time: of those descriptors that no client gets.
const SCRAPERS: usize = 32;
/// Time that a scrape under way is given at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Records metrics from now on. Does nothing when the process does so already.
pub fn install() -> Option<&'static PrometheusHandle> {
    if let Some(handle) = RECORDER.get() {
        return Some(handle);
    }
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS).ok()?;
    let builder =
        builder.set_buckets_for_metric(Matcher::Prefix("vault_".to_owned()), &BRIEF_SECONDS).ok()?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    match metrics::set_global_recorder(recorder) {
        Ok(()) => Some(RECORDER.get_or_init(|| handle)),
        // Another thread was faster, or the host program records in its own way.
        Err(_) => RECORDER.get(),
    }
}

/// Serves `/metrics` on `address` until `shutdown`.
pub async fn serve(
    address: SocketAddr,
    handle: &'static PrometheusHandle,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = ()>, ApiError> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|source| ApiError::Listen {
        variable: "METRICS_ADDR",
        address,
        source,
    })?;
    let render = move || async move {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render())
    };
    let app: Router = Router::new().route("/metrics", get(render));
    let bounds = Bounds { connections: SCRAPERS, ..Bounds::default() };
    Ok(async move {
        let upkeep = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                handle.run_upkeep();
            }
        };
        tokio::select! {
            () = upkeep => {}
            () = serve::serve(listener, app, bounds, shutdown, GOODBYE) => {}
        }
    })
}
