//! What is logged, to look for secrets in, and servers that quote them.

use std::string::FromUtf8Error;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponseParts;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tracing::subscriber::DefaultGuard;
use url::Url;

/// What was logged.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Takes what this thread logs, at every level, until the guard is dropped.
    pub(crate) fn listen(&self) -> DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// All of it.
    pub(crate) fn text(&self) -> Result<String, FromUtf8Error> {
        String::from_utf8(self.0.lock().clone())
    }
}

/// A server that answers every request alike.
pub(crate) async fn answering<H>(
    status: StatusCode,
    headers: H,
    body: String,
) -> anyhow::Result<(Url, AbortOnDropHandle<()>)>
where
    H: IntoResponseParts + Clone + Send + Sync + 'static,
{
    let app = Router::new().fallback(move || async move { (status, headers, body) });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?).parse()?;
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            panic!("the server stopped: {error}");
        }
    });
    Ok((url, AbortOnDropHandle::new(server)))
}
