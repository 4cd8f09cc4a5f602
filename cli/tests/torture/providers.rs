//! One server that stands for all providers. How it answers is written in the token that it is shown.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// No request is larger.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longer than anybody waits for an answer.
const NEVER: Duration = Duration::from_mins(10);

/// Behaviour of the provider, by the letter after the secret part of a provider token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Valid,
    Invalid,
    Fails,
    Redirects,
    Hangs,
    HangsUp,
    Gibberish,
}

impl Mood {
    pub(crate) const ALL: [Self; 7] = [
        Self::Valid,
        Self::Invalid,
        Self::Fails,
        Self::Redirects,
        Self::Hangs,
        Self::HangsUp,
        Self::Gibberish,
    ];

    /// End of a provider token that brings this about.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Valid => 'v',
            Self::Invalid => 'i',
            Self::Fails => 'f',
            Self::Redirects => 'r',
            Self::Hangs => 'h',
            Self::HangsUp => 'u',
            Self::Gibberish => 'g',
        }
    }

    /// Answer to a test of the stored token.
    pub(crate) fn result(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Valid => ("valid", None),
            Self::Invalid => ("invalid", None),
            Self::Fails | Self::Redirects => ("unknown", Some("unexpected_status")),
            Self::Hangs => ("unknown", Some("timed_out")),
            Self::HangsUp | Self::Gibberish => ("unknown", Some("unreachable")),
        }
    }
}

/// The server; it ends with this value.
pub(crate) struct Providers {
    pub(crate) url: String,
    heard: Arc<Mutex<Vec<u8>>>,
    server: JoinHandle<()>,
}

impl Providers {
    /// Tokens hold this secret, and after it a letter of a [`Mood`].
    pub(crate) async fn start(secret: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (secret, kept) = (secret.to_owned(), Arc::clone(&heard));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (secret, kept) = (secret.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    // Whoever asks may hang up.
                    let _ = answer(stream, &secret, &kept).await;
                });
            }
        });
        Ok(Self { url, heard, server })
    }

    /// Every byte that it was sent.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.heard.lock().clone()
    }
}

impl Drop for Providers {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(mut stream: TcpStream, secret: &str, kept: &Mutex<Vec<u8>>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_BYTES_MAX && stream.read_buf(&mut head).await? > 0);
    }
    kept.lock().extend_from_slice(&head);
    let head = String::from_utf8(head)?;
    let (_, rest) = head.split_once(secret).context("a request without the secret")?;
    let letter = rest.chars().next().context("a request without a mood")?;
    let mood = Mood::ALL.into_iter().find(|mood| mood.letter() == letter).context("an unknown mood")?;
    // It quotes the token wherever it can, as some do.
    let body = format!(r#"{{"error": {{"message": "{secret}{letter} is what you sent"}}}}"#);
    let quoting = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nX-Quoted: {secret}{letter}\r\nContent-Length: {}\r\nConnection: close\r\n",
            body.len()
        )
    };
    let text = match mood {
        Mood::Valid => format!("{}X-OAuth-Scopes: repo, user\r\n\r\n{body}", quoting("200 OK")),
        Mood::Invalid => format!("{}\r\n{body}", quoting("401 Unauthorized")),
        Mood::Fails => format!("{}\r\n{body}", quoting("500 Oops")),
        Mood::Redirects => format!("{}Location: /{secret}{letter}\r\n\r\n{body}", quoting("302 Found")),
        Mood::Gibberish => format!("{secret}{letter} is no HTTP\r\n\r\n"),
        Mood::HangsUp => return Ok(()),
        Mood::Hangs => {
            let mut more = [0];
            // Until the other side has had enough.
            tokio::time::timeout(NEVER, stream.read(&mut more)).await??;
            return Ok(());
        }
    };
    Ok(stream.write_all(text.as_bytes()).await?)
}
