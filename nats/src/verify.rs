//! Start-up verification: is an acknowledgement by this server a promise that outlives a power cut?

use std::time::Duration;

use async_nats::jetstream::stream::Info;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::LogError;
use crate::log::Log;
use crate::stream::unsafe_settings;

/// The oldest server that is trusted: earlier ones go on after an fsync that failed.
const OLDEST_VERSION: (u64, u64) = (2, 14);
/// Longest time that a server's monitoring may take to answer. `/jsz` waits for streams that are being written, and so
/// for their fsync: on a disk that is busy for seconds, a server that is merely slow must not pass for an unsafe one.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(15);
/// A monitoring answer longer than this, in bytes, is not one of a NATS server.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Why the log must not be trusted, in one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is not safe: {}; or start with --allow-unsafe-log and risk losing acknowledged calls", .0.join("; "))]
pub struct UnsafeLog(pub Vec<String>);

impl Log {
    /// Proves that the stream's settings, the servers' version and their `sync_interval` make an acknowledgement
    /// mean "on disk". What can't be asked counts as unsafe. With `allow_unsafe` every finding is a loud warning
    /// instead.
    pub async fn verify(&self, allow_unsafe: bool) -> Result<(), UnsafeLog> {
        let findings = self.findings().await;
        if findings.is_empty() {
            return Ok(());
        }
        if !allow_unsafe {
            return Err(UnsafeLog(findings));
        }
        for finding in findings {
            tracing::warn!(stream = %self.stream(), finding, "UNSAFE LOG: acknowledged calls can be lost");
        }
        Ok(())
    }

    async fn findings(&self) -> Vec<String> {
        let info = match self.info().await {
            Ok(info) => info,
            Err(error) => return vec![describe(&error)],
        };
        let mut findings = Vec::new();
        let settings = unsafe_settings(self.stream(), &info.config);
        if !settings.is_empty() {
            let stream = self.stream();
            findings.push(format!(
                "stream {stream}: {} (correct it with `nats stream edit`)",
                settings.join(", ")
            ));
        }
        let connected = self.link().client.server_info();
        findings.extend(old_version(&connected.server_name, &connected.version));
        self.ask_monitors(&info, &connected.server_id, &mut findings).await;
        findings
    }

    /// Every server that holds the stream must be among those that answer at `NATS_MONITOR_URL`.
    async fn ask_monitors(&self, info: &Info, connected_id: &str, findings: &mut Vec<String>) {
        let Some(urls) = &self.connection().monitor_url else {
            let url = "set NATS_MONITOR_URL to the monitoring address of every NATS server, e.g. http://127.0.0.1:8222";
            findings.push(format!("sync_interval cannot be checked: {url}"));
            return;
        };
        let mut servers = Vec::new();
        for url in urls.split(',').map(str::trim) {
            match ask(url).await {
                Ok(server) => {
                    findings.extend(old_version(&server.name, &server.version));
                    if !server.sync_always {
                        let name = &server.name;
                        let cure =
                            "set `jetstream { sync_interval: always }` in its configuration and restart it";
                        findings.push(format!("NATS server {name} acknowledges before fsync: {cure}"));
                    }
                    servers.push(server);
                }
                Err(reason) => {
                    let cure = "correct NATS_MONITOR_URL, or let the server monitor there (`http: …`)";
                    findings.push(format!("sync_interval cannot be checked at {url}: {reason}; {cure}"));
                }
            }
        }
        if servers.is_empty() {
            return;
        }
        if !servers.iter().any(|server| server.id == connected_id) {
            findings.push("NATS_MONITOR_URL names other servers than NATS_URL".to_owned());
        }
        for holder in holders(info) {
            if !servers.iter().any(|server| server.name == holder) {
                findings
                    .push(format!("NATS server {holder} holds the stream but is not in NATS_MONITOR_URL"));
            }
        }
    }
}

/// A server, by what it says of itself.
struct Server {
    id: String,
    name: String,
    version: String,
    sync_always: bool,
}

#[derive(Deserialize)]
struct Varz {
    server_id: String,
    server_name: String,
    version: String,
}

#[derive(Deserialize)]
struct Jsz {
    config: Option<JszConfig>,
}

#[derive(Deserialize)]
struct JszConfig {
    #[serde(default)]
    sync_always: bool,
}

async fn ask(url: &str) -> Result<Server, String> {
    let varz: Varz = get(url, "varz").await?;
    let jsz: Jsz = get(url, "jsz").await?;
    let config = jsz.config.ok_or("JetStream is not enabled there")?;
    Ok(Server {
        id: varz.server_id,
        name: varz.server_name,
        version: varz.version,
        sync_always: config.sync_always,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the monitoring; time and size are bounded here"
)]
async fn get<T: DeserializeOwned>(url: &str, page: &str) -> Result<T, String> {
    let client = reqwest::Client::builder().timeout(MONITOR_TIMEOUT).no_proxy().build();
    let client = client.map_err(|error| error.to_string())?;
    let request = client.get(format!("{}/{page}", url.trim_end_matches('/')));
    let answer = request.send().await.map_err(|_| "no answer".to_owned())?;
    if !answer.status().is_success() {
        return Err(format!("/{page} answered {}", answer.status()));
    }
    let body = answer.bytes().await.map_err(|_| "no answer".to_owned())?;
    if body.len() > MAX_ANSWER_BYTES {
        return Err(format!("/{page} is too long"));
    }
    serde_json::from_slice(&body).map_err(|_| format!("/{page} is not that of a NATS server"))
}

/// The names of the servers that hold a copy of the stream; none outside a cluster.
fn holders(info: &Info) -> Vec<String> {
    let Some(cluster) = &info.cluster else { return Vec::new() };
    if cluster.name.is_none() {
        return Vec::new();
    }
    let replicas = cluster.replicas.iter().map(|peer| peer.name.clone());
    cluster.leader.iter().cloned().chain(replicas).collect()
}

/// The finding for a server that is older than [`OLDEST_VERSION`], or whose version can't be read.
fn old_version(server: &str, version: &str) -> Option<String> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u64>);
    let found = parts.next().and_then(Result::ok).zip(parts.next().and_then(Result::ok));
    if found.is_some_and(|found| found >= OLDEST_VERSION) {
        return None;
    }
    let (major, minor) = OLDEST_VERSION;
    Some(format!(
        "NATS server {server} has version {version:?}, which goes on after a failed fsync: install {major}.{minor} or later"
    ))
}

fn describe(error: &LogError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_2_14_are_refused() {
        for good in ["2.14.0", "2.15.1", "2.14.0-RC.1", "3.0.0", "v2.16.0"] {
            assert_eq!(old_version("n1", good), None, "{good}");
        }
        for bad in ["2.9.11", "2.12.5", "2.13.9", "1.99.0", "", "x.y", "2"] {
            let finding = old_version("n1", bad).unwrap_or_else(|| panic!("{bad} was trusted"));
            assert!(finding.contains("n1") && finding.contains("install 2.14 or later"), "{finding}");
        }
    }

    #[test]
    fn a_refusal_is_one_line() {
        let text = UnsafeLog(vec!["a".to_owned(), "b".to_owned()]).to_string();
        assert_eq!(
            text,
            "the log is not safe: a; b; or start with --allow-unsafe-log and risk losing acknowledged calls"
        );
    }
}
