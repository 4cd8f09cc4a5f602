//! Why there is no connection, and why the log did not answer.

use crate::stream::StreamName;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The servers can't be reached, or refuse the login.
    #[error("cannot connect to NATS at {url}; check NATS_URL, that the server runs, and the login")]
    Connect {
        /// The address, without its login.
        url: String,
        /// The client's error.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The connection was closed as soon as it was made.
    #[error("the connection to NATS at {url} was closed at once")]
    Lost {
        /// The address, without its login.
        url: String,
    },
}

/// Why the log did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no connection now.
    #[error("there is no connection to NATS")]
    Disconnected,
    /// No answer within the time.
    #[error("NATS did not answer in time")]
    Timeout,
    /// The request failed.
    #[error("the request to NATS failed")]
    Request {
        /// The client's error.
        #[source]
        source: async_nats::RequestError,
    },
    /// The server refused the request.
    #[error("JetStream refused the request")]
    Server {
        /// The server's error.
        #[source]
        source: async_nats::jetstream::Error,
    },
    /// The answer can't be read.
    #[error("JetStream's answer cannot be read")]
    Reply {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A stored message can't be read.
    #[error("message {seq} of the stream cannot be read: {reason}")]
    Message {
        /// Its sequence.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// The stream is not there.
    #[error(
        "there is no stream {stream} on this NATS server; start the api or the worker once, or set NATS_STREAM"
    )]
    NoStream {
        /// Its name.
        stream: StreamName,
    },
}
