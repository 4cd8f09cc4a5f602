//! A server or stream that can lose acknowledged frames is refused, in one line that says what to do.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::server::Server;

#[tokio::test]
async fn our_own_configuration_and_stream_are_safe() {
    let server = Server::start().await;
    let log = server.log("SAFE").await;
    assert_eq!(log.verify(false).await, Ok(()));
    // Once more, beside one that exists.
    log.ensure_stream(1).await.expect("it is there");
    assert_eq!(log.verify(false).await, Ok(()));
}

#[tokio::test]
async fn a_server_that_acknowledges_before_fsync_is_refused() {
    let server =
        Server::with_config(|config| config.replace("sync_interval: always", "sync_interval: \"2m\"")).await;
    let log = server.log("SYNC").await;
    let text = log.verify(false).await.expect_err("it must be refused").to_string();
    assert!(text.contains("acknowledges before fsync: set `jetstream { sync_interval: always }`"), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(log.verify(true).await, Ok(()), "--allow-unsafe-log");
}

#[tokio::test]
async fn what_cannot_be_asked_counts_as_unsafe() {
    let server = Server::start().await;
    server.log("ASK").await;
    for (monitor, expected) in [
        (None, "set NATS_MONITOR_URL to the monitoring address of every NATS server"),
        (
            Some("http://127.0.0.1:1".to_owned()),
            "sync_interval cannot be checked at http://127.0.0.1:1: no answer",
        ),
        (Some(format!("http://{}", server.address())), "sync_interval cannot be checked at http://"),
    ] {
        let mut connection = server.connection("ASK");
        connection.monitor_url = monitor;
        let log = nats::connect(&connection).await.expect("connecting");
        let text = log.verify(false).await.expect_err("it must be refused").to_string();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn the_monitoring_of_another_server_proves_nothing() {
    let (server, other) = (Server::start().await, Server::start().await);
    server.log("OTHER").await;
    let mut connection = server.connection("OTHER");
    connection.monitor_url = other.connection("OTHER").monitor_url;
    let log = nats::connect(&connection).await.expect("connecting");
    let text = log.verify(false).await.expect_err("it must be refused").to_string();
    assert!(text.contains("NATS_MONITOR_URL names other servers than NATS_URL"), "{text}");
}

#[tokio::test]
async fn a_weak_stream_is_refused_with_its_settings_named() {
    let server = Server::start().await;
    let log = nats::connect(&server.connection("WEAK")).await.expect("connecting");
    let text = log.verify(false).await.expect_err("there is no stream").to_string();
    assert!(text.contains("there is no stream WEAK"), "{text}");

    let jetstream = async_nats::jetstream::new(server.raw_client().await);
    let config = Config { name: "WEAK".to_owned(), subjects: vec![log.subject()], ..Config::default() };
    jetstream.create_stream(config).await.expect("making the stream");
    log.ensure_stream(1).await.expect("it is left as it is");
    let text = log.verify(false).await.expect_err("it must be refused").to_string();
    for setting in
        ["deny_delete must be on", "deny_purge must be on", "duplicate_window must be at least 10m"]
    {
        assert!(text.contains(setting), "{text}");
    }
}

#[tokio::test]
async fn a_login_in_the_url_is_used() {
    let server = Server::start().await;
    for login in ["ledger:secret", "%6Cedger:%73ecret"] {
        let url = format!("nats://{login}@{}", server.address());
        let log =
            nats::connect(&nats::Connection::new(url, "URL".parse().unwrap())).await.expect("connecting");
        log.ensure_stream(1).await.expect("making the stream");
    }
}

#[tokio::test]
async fn a_wrong_login_or_address_is_one_line_without_the_password() {
    let server = Server::start().await;
    for url in
        [format!("nats://ledger:hidden@{}", server.address()), "nats://u:hidden@127.0.0.1:1".to_owned()]
    {
        let connection = nats::Connection::new(url, "LEDGER".parse().unwrap());
        let text = nats::connect(&connection).await.expect_err("no connection").to_string();
        assert!(text.starts_with("cannot connect to NATS at nats://127.0.0.1:"), "{text}");
        assert!(!text.contains("hidden") && !text.contains('\n'), "{text}");
    }
}

/// Passes requests on to `monitor`, one after the other, and answers with what `change` makes of the answers; those
/// about JetStream take `delay` longer.
async fn through_proxy(monitor: &str, delay: Duration, change: fn(String) -> String) -> String {
    let upstream = monitor.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).await.is_ok() {
                head.push(byte[0]);
            }
            head.truncate(head.len().saturating_sub(2));
            head.extend_from_slice(b"Connection: close\r\n\r\n");
            let mut server = TcpStream::connect(&upstream).await.expect("the monitoring port is open");
            server.write_all(&head).await.expect("it reads the request");
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await.expect("it answers");
            let answer = String::from_utf8(answer).expect("JSON is UTF-8");
            if head.starts_with(b"GET /jsz") {
                tokio::time::sleep(delay).await;
            }
            let answer = change(answer);
            // A client that is gone is no concern of this.
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_server_whose_fsync_may_fail_unseen_is_refused_by_its_version() {
    let server = Server::start().await;
    server.log("OLD").await;
    let mut connection = server.connection("OLD");
    let monitor = connection.monitor_url.take().expect("it monitors");
    // Of the same length, as the answer's head says it.
    let older = |answer: String| answer.replace("\"version\": \"2.", "\"version\": \"1.");
    connection.monitor_url = Some(through_proxy(&monitor, Duration::ZERO, older).await);
    let log = nats::connect(&connection).await.expect("connecting");
    let text = log.verify(false).await.expect_err("it must be refused").to_string();
    assert!(text.contains("has version \"1.") && text.contains("install 2.14 or later"), "{text}");
    assert!(!text.contains('\n') && !text.contains("cannot be checked"), "{text}");
    assert_eq!(log.verify(true).await, Ok(()), "--allow-unsafe-log");
}

/// Its `/jsz` waits behind the fsync of other streams; a disk may be busy for seconds.
#[tokio::test]
async fn a_server_that_is_slow_to_answer_is_not_refused() {
    let server = Server::start().await;
    server.log("SLOW").await;
    let mut connection = server.connection("SLOW");
    let monitor = connection.monitor_url.take().expect("it monitors");
    connection.monitor_url = Some(through_proxy(&monitor, Duration::from_secs(4), |answer| answer).await);
    let log = nats::connect(&connection).await.expect("connecting");
    assert_eq!(log.verify(false).await, Ok(()));
}
