//! One api process, composed in a line: configuration in, a router and its background work out.

use std::net::SocketAddr;

use axum::Router;
use axum::serve::ListenerExt;
use ledger::IdSource;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::config::ApiConfig;
use crate::router::router;
use crate::state::{AppState, Parts};
use crate::throttle::Throttle;
use crate::users::Users;
use crate::watermark::{self, Watermark};

/// Why the api could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The database's address cannot be used.
    #[error("DATABASE_URL cannot be used")]
    Database(#[source] store::Error),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address} (LISTEN_ADDR)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server failed while serving.
    #[error("serving failed")]
    Serve(#[source] std::io::Error),
}

/// The background work of an api. Dropping it does not stop the work; [`AppHandle::shutdown`] does.
pub struct AppHandle {
    /// What the handlers share.
    pub state: AppState,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl AppHandle {
    /// Stops the background work. Call it when no request is in flight any more.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.state.pool().close().await;
    }
}

/// Serves until `shutdown`, then answers what is in flight and stops.
pub async fn run(config: ApiConfig, shutdown: CancellationToken) -> Result<(), ApiError> {
    let address = config.listen_addr;
    let (app, handle) = build(config).await?;
    let listener = TcpListener::bind(address).await.map_err(|source| ApiError::Listen { address, source })?;
    tracing::info!(%address, "the api is listening");
    let result = serve(listener, app, shutdown).await;
    handle.shutdown().await;
    result
}

/// Serves `app` on `listener` until `shutdown`; then it answers what is in flight.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) -> Result<(), ApiError> {
    // Answers are small and written whole: waiting for more to send would only delay them.
    let listener = listener.tap_io(|stream| {
        // A connection that is closed already is not worth a word.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(ApiError::Serve)
}

/// The router and the work behind it.
pub async fn build(config: ApiConfig) -> Result<(Router, AppHandle), ApiError> {
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let clock = config.clock.clone();
    let pool = store::pool(config.database_url.expose_secret(), config.database_connections)
        .map_err(ApiError::Database)?;
    let users = Users::new(pool.clone(), clock.clone(), config.auto_provision);
    let watermark = Watermark::default();
    tasks.spawn(watermark::follow(pool.clone(), watermark.clone(), users.clone(), shutdown.clone()));
    let state = AppState::new(Parts {
        auth: Auth::new(&config.jwt, clock.clone()),
        throttle: Throttle::default(),
        ids: IdSource::new(clock.clone()),
        config,
        pool,
        users,
        watermark,
        clock,
    });
    let (app, _document) = router(state.clone());
    Ok((app, AppHandle { state, shutdown, tasks }))
}
