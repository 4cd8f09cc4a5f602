//! A load generator that costs little beside what it measures: keep-alive connections, requests rendered once,
//! answers read no further than their end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer head and body together; the benchmarks' answers are far smaller.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Measurements of one run of load.
#[derive(Debug)]
pub(crate) struct Load {
    /// Answers with the expected status.
    pub(crate) answered: u64,
    /// Time from the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Microseconds from a request's first byte to its answer's last.
    pub(crate) latency_us: Histogram<u64>,
}

impl Load {
    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let answered = self.answered as f64;
        answered / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a short run")]
        let us = self.latency_us.value_at_quantile(quantile) as f64;
        us / 1_000.0
    }
}

/// Requests, rendered whole; connection `c` sends number `c`, `c + connections`, … in turn.
#[derive(Debug, Clone)]
pub(crate) struct Requests(Arc<[Box<[u8]>]>);

impl Requests {
    /// One `GET` per bearer token, the path as it stands.
    pub(crate) fn get(path: &str, tokens: &[String], extra_headers: &str) -> Self {
        let render = |token: &String| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{extra_headers}\r\n"
            )
            .into_bytes()
            .into_boxed_slice()
        };
        Self(tokens.iter().map(render).collect())
    }

    fn nth(&self, n: usize) -> &[u8] {
        &self.0[n % self.0.len()]
    }
}

/// Sends `requests` over `connections` keep-alive connections for `duration`; any answer but `expected` is an error.
pub(crate) async fn run(
    address: &str,
    requests: &Requests,
    connections: usize,
    duration: Duration,
    expected: u16,
) -> anyhow::Result<Load> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|first| {
            let (address, requests) = (address.to_owned(), requests.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut latency_us = histogram();
                let mut n = first;
                while start.elapsed() < duration {
                    let sent = Instant::now();
                    let status = connection.exchange(requests.nth(n)).await?;
                    ensure!(
                        status == expected,
                        "answer {status} instead of {expected}: {}",
                        connection.text()
                    );
                    latency_us
                        .saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                    n += connections;
                }
                anyhow::Ok(latency_us)
            })
        })
        .collect();

    let mut latency_us = histogram();
    for task in tasks {
        latency_us.add(task.await??).context("merging the latencies")?;
    }
    Ok(Load { answered: latency_us.len(), elapsed: start.elapsed(), latency_us })
}

/// Latencies up to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are valid")
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `host:port`.
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends one rendered request and reads its answer whole; the answer's status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (head, body) = loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed the connection: {}", self.text());
            ensure!(self.buffer.len() <= MAX_ANSWER_BYTES, "an answer of more than {MAX_ANSWER_BYTES} bytes");
            if let Some(head) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break (head + 4, content_length(&self.buffer[..head])?);
            }
        };
        while self.buffer.len() < head + body {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "an answer cut short");
        }
        let status = self.buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        status.and_then(|digits| digits.parse().ok()).context("an answer without a status")
    }

    /// A header of the last answer, whose name is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let head = &self.buffer[..memmem::find(&self.buffer, b"\r\n\r\n")?];
        let text = std::str::from_utf8(head).ok()?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        let mut found = pairs.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    }

    /// The last answer, for an error's message.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// The body's length; an answer in chunks would be read wrongly, so it is an error.
fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            return Ok(std::str::from_utf8(value)?.parse()?);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            bail!("the load generator does not read answers in chunks");
        }
    }
    Ok(0)
}
