//! The one place that sends to others: it bounds time and size, follows no redirect and asks no proxy.
//!
//! Not by `reqwest`: its TLS wants aws-lc, or a crypto provider installed for the whole process, without which all its
//! clients panic, those of other crates too; and the certificates of the platform, without which none can be made.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// GitHub refuses requests without one.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("usage-ledger/", env!("CARGO_PKG_VERSION")));
/// Size of an answer's status line and headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

/// Sends requests, each on a connection of its own.
pub(crate) struct Http {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
}

/// Which answers' bodies are read, and how far.
pub(crate) struct Reading {
    pub(crate) statuses: &'static [u16],
    pub(crate) bytes_max: usize,
}

/// An answer that came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Of an answer whose body was to be read, unless it is too long or broke off.
    pub(crate) body: Option<Bytes>,
}

/// Why nothing came back.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    TimedOut,
    /// Holds nothing of what was sent or received.
    Failed(hyper_util::client::legacy::Error),
}

impl Http {
    /// A connection may take `connect`, all of a request `timeout`.
    pub(crate) fn new(connect: Duration, timeout: Duration) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(Connector { inner, timeout: connect });
        Ok(Self { client, timeout })
    }

    /// GET of this address.
    pub(crate) async fn get(
        &self,
        address: Uri,
        headers: HeaderMap,
        reading: Reading,
    ) -> Result<Answer, NoAnswer> {
        self.ask(Method::GET, address, headers, Bytes::new(), reading).await
    }

    /// POST of this body to this address.
    pub(crate) async fn post(
        &self,
        address: Uri,
        headers: HeaderMap,
        body: Bytes,
        reading: Reading,
    ) -> Result<Answer, NoAnswer> {
        self.ask(Method::POST, address, headers, body, reading).await
    }

    async fn ask(
        &self,
        method: Method,
        address: Uri,
        headers: HeaderMap,
        body: Bytes,
        reading: Reading,
    ) -> Result<Answer, NoAnswer> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = address;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        timeout(self.timeout, self.send(request, reading)).await.unwrap_or(Err(NoAnswer::TimedOut))
    }

    async fn send(&self, request: Request<Full<Bytes>>, reading: Reading) -> Result<Answer, NoAnswer> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that asks others; its callers and limits bound time and size"
        )]
        let answer = self.client.request(request).await.map_err(NoAnswer::of)?;
        let (head, body) = answer.into_parts();
        let body = if reading.statuses.contains(&head.status.as_u16()) {
            Limited::new(body, reading.bytes_max).collect().await.ok().map(Collected::to_bytes)
        } else {
            None
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

impl NoAnswer {
    fn of(error: hyper_util::client::legacy::Error) -> Self {
        let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
        if causes.any(<dyn Error>::is::<Elapsed>) { Self::TimedOut } else { Self::Failed(error) }
    }
}

/// The crypto provider is named because the process has no default one: a second crate that brings its own would make
/// the choice ambiguous, and that is a panic.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let trusting = match builder.clone().with_native_roots() {
        Ok(trusting) => trusting,
        Err(error) => {
            tracing::warn!(%error, "this machine has no certificates; providers are trusted by Mozilla's");
            builder.with_webpki_roots()
        }
    };
    Ok(trusting.with_no_client_auth())
}

/// Bounds the time until a connection stands. The TCP connector's own time-out ends before TLS begins, and is one per
/// address.
#[derive(Clone)]
struct Connector {
    inner: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

impl tower::Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connection = timeout(self.timeout, self.inner.call(address));
        Box::pin(async move { connection.await? })
    }
}
