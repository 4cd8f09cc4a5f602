//! Connecting to NATS, and noticing that a connection was lost and made again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::error::{ConnectError, LogError};
use crate::stream::StreamName;

/// Longest time that one attempt to open a socket and log in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to connect again.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// Address of the log, and the login.
#[derive(Clone, Debug)]
pub struct Connection {
    /// One URL or several with commas: `nats://127.0.0.1:4222`, `tls://…`. May hold `user:password@`.
    pub nats_url: String,
    /// The monitoring address of *every* server of the cluster, with commas: `http://127.0.0.1:8222`.
    pub monitor_url: Option<String>,
    /// The stream that is the log.
    pub stream: StreamName,
    /// The login.
    pub auth: Auth,
    /// Name of this process in the server's list of connections.
    pub client_name: String,
}

/// Login to NATS.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// With whatever the URL holds: `user:password@` or `token@`, percent-encoded.
    #[default]
    Url,
    /// With a user and a password.
    UserPassword {
        /// The user's name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// With a token of the server's configuration.
    Token(SecretString),
}

/// A plain client with the login of the URL, which `async_nats::connect` ignores: for programs that look at the server
/// beside the log.
pub async fn client(nats_url: &str) -> Result<Client, ConnectError> {
    let connection = Connection::new(nats_url, StreamName::default());
    let urls: Vec<&str> = nats_url.split(',').map(str::trim).collect();
    let connected = login(&connection).connect(urls).await;
    connected.map_err(|source| ConnectError::Connect { url: connection.display_url(), source })
}

impl Connection {
    /// A connection to `nats_url` for `stream`, with the login that is in the URL.
    pub fn new(nats_url: impl Into<String>, stream: StreamName) -> Self {
        Self {
            nats_url: nats_url.into(),
            monitor_url: None,
            stream,
            auth: Auth::default(),
            client_name: "usage-ledger".to_owned(),
        }
    }

    /// The address without its login, for messages.
    pub fn display_url(&self) -> String {
        self.nats_url.split(',').map(|url| split_login(url.trim()).1).collect::<Vec<_>>().join(",")
    }
}

/// A client, and how often it was connected.
///
/// The count tells apart what was sent before and after a reconnect: everything in flight is lost then.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    status: watch::Receiver<Status>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    connected: bool,
    /// Counts connections, from 1.
    epoch: u64,
}

/// Tells one connection from the next: the id that the server gave it, and the server's own, new at every start.
///
/// It changes before anything can be sent or received on the new connection; [`Link::epoch`] a little later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    server_id: String,
    client_id: u64,
}

impl Link {
    /// Opens a connection of its own. With `in_background` it comes about later when no server answers now.
    pub(crate) async fn open(connection: &Connection, in_background: bool) -> Result<Self, ConnectError> {
        let (sender, status) = watch::channel(Status::default());
        let sender = Arc::new(sender);
        let mut options = login(connection)
            .name(&connection.client_name)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                record(&sender, &event);
                std::future::ready(())
            });
        if in_background {
            options = options.retry_on_initial_connect();
        }
        let urls: Vec<String> = connection.display_url().split(',').map(str::to_owned).collect();
        let client = options
            .connect(urls)
            .await
            .map_err(|source| ConnectError::Connect { url: connection.display_url(), source })?;
        let link = Self { client, status };
        if !in_background {
            // The first connection is reported by an event that comes a little later; nobody should take it for
            // a reconnect.
            link.connected().await;
        }
        Ok(link)
    }

    /// Counts the connections made so far.
    pub(crate) fn epoch(&self) -> u64 {
        self.status.borrow().epoch
    }

    pub(crate) fn session(&self) -> Session {
        let info = self.client.server_info();
        Session { server_id: info.server_id, client_id: info.client_id }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.status.borrow().connected
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(&self) {
        let mut status = self.status.clone();
        // An error means that the client is gone, which its owner notices by itself; never spin on it.
        if status.wait_for(|status| status.connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the connection is not the one of `epoch` any more.
    pub(crate) async fn left(&self, epoch: u64) {
        let mut status = self.status.clone();
        if status.wait_for(|status| status.epoch != epoch).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks the JetStream API, within `timeout`.
    ///
    /// The reply comes to an inbox of its own: the client's shared one keeps a request whose reply never comes
    /// for ever. Nothing is sent while there is no connection, so that no requests pile up either.
    pub(crate) async fn request<T: DeserializeOwned>(
        &self,
        endpoint: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<T, LogError> {
        let deadline = Instant::now() + timeout;
        timeout_at(deadline, self.connected()).await.map_err(|_| LogError::Disconnected)?;
        let request =
            async_nats::Request::new().inbox(self.client.new_inbox()).timeout(Some(timeout)).payload(payload);
        let subject = format!("$JS.API.{endpoint}");
        let reply = timeout_at(deadline, self.client.send_request(subject, request))
            .await
            .map_err(|_| LogError::Timeout)?
            .map_err(|source| LogError::Request { source })?;
        parse_reply(&reply.payload)
    }
}

/// A reply of the JetStream API is either the answer or `{"error": {…}}`.
pub(crate) fn parse_reply<T: DeserializeOwned>(payload: &[u8]) -> Result<T, LogError> {
    #[derive(serde::Deserialize)]
    struct Failed {
        error: Option<async_nats::jetstream::Error>,
    }
    let failed: Failed = serde_json::from_slice(payload).map_err(|source| LogError::Reply { source })?;
    match failed.error {
        Some(source) => Err(LogError::Server { source }),
        None => serde_json::from_slice(payload).map_err(|source| LogError::Reply { source }),
    }
}

/// The client takes no login from its URLs, so it is taken out of the first that has one.
fn login(connection: &Connection) -> ConnectOptions {
    let options = ConnectOptions::new();
    match &connection.auth {
        Auth::Url => {
            let login = connection.nats_url.split(',').find_map(|url| split_login(url.trim()).0);
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            match login.map(|login| login.split_once(':').ok_or(login)) {
                None => options,
                Some(Ok((user, password))) => options.user_and_password(decode(user), decode(password)),
                Some(Err(token)) => options.token(decode(token)),
            }
        }
        Auth::UserPassword { user, password } => {
            options.user_and_password(user.clone(), password.expose_secret().to_owned())
        }
        Auth::Token(token) => options.token(token.expose_secret().to_owned()),
    }
}

/// `scheme://login@host` as (`login`, `scheme://host`).
fn split_login(url: &str) -> (Option<&str>, String) {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (login, host) = rest.rsplit_once('@').map_or((None, rest), |(login, host)| (Some(login), host));
    let separator = if scheme.is_empty() { "" } else { "://" };
    (login, format!("{scheme}{separator}{host}"))
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(u32::MAX).min(8);
    (Duration::from_millis(5) * 2_u32.pow(doublings)).min(MAX_RECONNECT_DELAY)
}

fn record(sender: &watch::Sender<Status>, event: &Event) {
    match event {
        Event::Connected => sender.send_modify(|status| {
            *status = Status { connected: true, epoch: status.epoch + 1 };
        }),
        Event::Disconnected | Event::Closed => sender.send_modify(|status| status.connected = false),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(%event, "nats connection reports a problem");
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "nats connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_never_show_the_login() {
        let at = |url: &str| Connection::new(url, StreamName::default()).display_url();
        assert_eq!(at("nats://u:p@w@127.0.0.1:4222"), "nats://127.0.0.1:4222");
        assert_eq!(at("u:p@a:1, tls://b:2"), "a:1,tls://b:2");
    }

    #[test]
    fn reconnects_come_soon_and_stay_bounded() {
        assert_eq!(reconnect_delay(0), Duration::from_millis(5));
        assert_eq!(reconnect_delay(usize::MAX), MAX_RECONNECT_DELAY);
    }

    #[test]
    fn an_error_of_the_server_is_an_error() {
        let reply = parse_reply::<serde_json::Value>(br#"{"error":{"code":404,"err_code":10059}}"#);
        assert!(matches!(reply, Err(LogError::Server { .. })), "{reply:?}");
        assert!(parse_reply::<serde_json::Value>(br#"{"a":1}"#).is_ok());
    }
}
