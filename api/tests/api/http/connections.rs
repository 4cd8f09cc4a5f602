//! What nobody needs a credential for: connections, heads, silence, and slow reading.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::Bounds;
use api::http::client::TrustedProxies;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use testkit::{PATIENCE, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

const SHORT: Duration = Duration::from_millis(500);
/// Bytes that no buffer takes at once.
const LARGE: usize = 16 * 1024 * 1024;

/// A small service of the real accept loop.
struct Service {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Service {
    async fn start(bounds: Bounds) -> Result<Self> {
        let much = async || {
            let chunk = Bytes::from(vec![b'x'; 32 * 1024]);
            Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
        };
        let app = Router::new()
            .route("/", get(async || "ok"))
            .route("/large", get(async || vec![b'x'; LARGE]))
            .route("/much", get(much));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        tokio::spawn(api::serve(listener, app, bounds, shutdown.clone(), Duration::ZERO));
        Ok(Self { address, _stop: shutdown.drop_guard() })
    }

    /// A connection from this address of this machine.
    async fn from(&self, local: &str) -> Result<TcpStream> {
        connect(self.address, local).await
    }

    /// A connection from this address whose answer has no end.
    async fn much(&self, local: &str) -> Result<TcpStream> {
        let mut stream = self.from(local).await?;
        stream.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        timeout(PATIENCE, stream.read_exact(&mut [0; 12])).await??;
        Ok(stream)
    }

    /// Whether somebody at another address is answered.
    async fn answers(&self) -> Result<()> {
        ask(&mut self.from("127.0.0.1").await?).await
    }
}

async fn connect(to: SocketAddr, local: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{local}:0").parse()?)?;
    Ok(timeout(PATIENCE, socket.connect(to)).await??)
}

/// Sends a request and reads the beginning of its answer.
async fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut begin = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut begin)).await??;
    ensure!(begin == *b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&begin));
    Ok(())
}

/// Waits until the peer has ended the connection; answers what it said before.
async fn end(stream: &mut TcpStream) -> Result<String> {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.context("it is still open")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn a_thousand_silent_connections_and_slow_heads_stall_nobody() -> Result<()> {
    let world = World::without_worker(&[]).await?;
    let address: SocketAddr = world.api.url.trim_start_matches("http://").parse()?;
    let mut attackers = Vec::new();
    for n in 0..1_000 {
        let mut stream = connect(address, &format!("127.0.1.{}", n % 8 + 1)).await?;
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await;
        }
        attackers.push(stream);
    }
    let asked = Instant::now();
    world.anonymous()?.get("/healthz").send().await?.expect(200)?;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // Ten seconds after they came they are gone, whatever they have said meanwhile.
    for stream in &mut attackers {
        let _ = stream.write_all(b"a").await;
    }
    for stream in &mut attackers {
        end(stream).await?;
    }
    assert!(asked.elapsed() < Duration::from_secs(25), "{:?}", asked.elapsed());
    Ok(())
}

#[tokio::test]
async fn an_address_has_so_many_unfinished_heads_and_a_proxy_any_number() -> Result<()> {
    let bounds = Bounds {
        heads_per_address: 5,
        proxies: TrustedProxies::new(vec!["127.0.0.3/32".parse()?]),
        ..Bounds::default()
    };
    let service = Service::start(bounds).await?;
    let mut heads = Vec::new();
    for _ in 0..5 {
        heads.push(service.from("127.0.0.2").await?);
    }
    // The next one waits, and nobody else does.
    let mut next = service.from("127.0.0.2").await?;
    ensure!(timeout(SHORT, ask(&mut next)).await.is_err(), "it was read before its turn");
    service.answers().await?;
    // A finished one makes room for it.
    ask(&mut heads[0]).await?;
    let mut begin = [0; 12];
    timeout(PATIENCE, next.read_exact(&mut begin)).await??;
    assert_eq!(begin, *b"HTTP/1.1 200");
    // And a later head on a connection that does not come whole takes it again.
    let mut another = service.from("127.0.0.2").await?;
    another.write_all(b"GET ").await?;
    heads[0].write_all(b"GET ").await?;
    end(&mut heads[0]).await?;
    drop(heads);
    testkit::wait_until(PATIENCE, || async {
        let Ok(mut stream) = service.from("127.0.0.2").await else { return false };
        ask(&mut stream).await.is_ok()
    })
    .await;

    let mut proxied = Vec::new();
    for _ in 0..20 {
        proxied.push(service.from("127.0.0.3").await?);
    }
    for stream in &mut proxied {
        ask(stream).await?;
    }
    Ok(())
}

/// A head that is complete is not unfinished, not for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn whole_heads_of_one_address_never_stand_in_each_others_way() -> Result<()> {
    let service = Service::start(Bounds { heads_per_address: 2, ..Bounds::default() }).await?;
    let asking = (0..64).map(|_| async {
        let mut stream = service.from("127.0.0.2").await?;
        let mut answer = [0; 1024];
        for _ in 0..50 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            let bytes = timeout(PATIENCE, stream.read(&mut answer)).await??;
            ensure!(answer[..bytes].starts_with(b"HTTP/1.1 200"), "{bytes} bytes");
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(asking).await?;
    Ok(())
}

#[tokio::test]
async fn silence_ends_a_connection_and_a_request_under_way_is_none() -> Result<()> {
    let service = Service::start(Bounds { head: SHORT, idle: 2 * SHORT, ..Bounds::default() }).await?;
    let begun = Instant::now();
    let (mut fresh, mut slow) = (service.from("127.0.0.1").await?, service.from("127.0.0.1").await?);
    let mut idle = service.from("127.0.0.1").await?;
    ask(&mut idle).await?;
    let mut again = service.from("127.0.0.1").await?;
    ask(&mut again).await?;
    again.write_all(b"GET / HT").await?;
    slow.write_all(b"GET / HTTP/1.1\r\n").await?;
    end(&mut fresh).await?;
    end(&mut slow).await?;
    end(&mut again).await?;
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < PATIENCE);
    end(&mut idle).await?;
    assert!(begun.elapsed() >= 2 * SHORT, "{:?}", begun.elapsed());

    // Nobody is silent whose answer takes its time.
    let mut reader = service.from("127.0.0.1").await?;
    reader.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let begun = Instant::now();
    let mut buffer = vec![0; 64 * 1024];
    while begun.elapsed() < 4 * SHORT {
        ensure!(timeout(PATIENCE, reader.read(&mut buffer)).await?? > 0, "it was cut");
    }
    Ok(())
}

#[tokio::test]
async fn a_head_is_bounded_and_http_1_is_all() -> Result<()> {
    let service = Service::start(Bounds::default()).await?;
    let with = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(bytes));
    let mut stream = service.from("127.0.0.1").await?;
    stream.write_all(with(30_000).as_bytes()).await?;
    let mut begin = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut begin)).await??;
    assert_eq!(begin, *b"HTTP/1.1 200");

    let mut stream = service.from("127.0.0.1").await?;
    let _ = stream.write_all(with(33_000).as_bytes()).await;
    assert!(end(&mut stream).await?.starts_with("HTTP/1.1 431"));

    let mut stream = service.from("127.0.0.1").await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let said = end(&mut stream).await?;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    Ok(())
}

#[tokio::test]
async fn when_all_places_are_taken_whoever_waits_longest_makes_room() -> Result<()> {
    let service = Service::start(Bounds { connections: 12, ..Bounds::default() }).await?;
    let mut held = Vec::new();
    for n in 0..12 {
        let mut stream = service.from(&format!("127.0.1.{}", n % 6)).await?;
        ask(&mut stream).await?;
        held.push(stream);
    }
    for _ in 0..12 {
        service.answers().await?;
    }
    // The oldest of them has given way.
    end(&mut held[0]).await?;
    Ok(())
}

#[tokio::test]
async fn one_address_cannot_take_every_place() -> Result<()> {
    let service = Service::start(Bounds { connections: 12, ..Bounds::default() }).await?;
    // Its part, with requests that have no end.
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(service.much("127.0.0.2").await?);
    }
    for _ in 0..5 {
        assert_eq!(end(&mut service.from("127.0.0.2").await?).await?, "");
    }
    service.answers().await?;
    // One of its own that waits for a request makes room for it.
    busy.pop();
    testkit::wait_until(PATIENCE, || async {
        let Ok(mut stream) = service.from("127.0.0.2").await else { return false };
        ask(&mut stream).await.is_ok()
    })
    .await;
    let mut idle = service.from("127.0.0.2").await?;
    ask(&mut idle).await?;
    ask(&mut service.from("127.0.0.2").await?).await?;
    end(&mut idle).await?;
    Ok(())
}

#[tokio::test]
async fn while_all_are_at_work_nobody_is_cut_for_another() -> Result<()> {
    let service = Service::start(Bounds { connections: 4, ..Bounds::default() }).await?;
    let mut busy = Vec::new();
    for n in 0..4 {
        busy.push(service.much(&format!("127.0.1.{n}")).await?);
    }
    let mut waiting = service.from("127.0.0.1").await?;
    ensure!(timeout(SHORT, ask(&mut waiting)).await.is_err(), "there was a fifth place");
    let mut buffer = vec![0; 1024 * 1024];
    for stream in &mut busy {
        ensure!(timeout(PATIENCE, stream.read(&mut buffer)).await?? > 0);
    }
    drop(busy);
    let mut begin = [0; 12];
    timeout(PATIENCE, waiting.read_exact(&mut begin)).await??;
    assert_eq!(begin, *b"HTTP/1.1 200");
    Ok(())
}

#[tokio::test]
async fn an_answer_is_under_way_until_it_is_sent() -> Result<()> {
    let service = Service::start(Bounds { connections: 4, ..Bounds::default() }).await?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    socket.bind("127.0.1.1:0".parse()?)?;
    let mut reader = timeout(PATIENCE, socket.connect(service.address)).await??;
    reader.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut begin = [0; 12];
    timeout(PATIENCE, reader.read_exact(&mut begin)).await??;
    // Nobody of these is cut for another's sake but those who wait.
    for n in 2..12 {
        ask(&mut service.from(&format!("127.0.1.{n}")).await?).await?;
    }
    let mut held = Vec::new();
    for n in 2..12 {
        let mut stream = service.from(&format!("127.0.1.{n}")).await?;
        ask(&mut stream).await?;
        held.push(stream);
    }
    let mut rest = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut rest)).await??;
    ensure!(rest.len() > LARGE, "{} bytes", rest.len());
    Ok(())
}

#[tokio::test]
async fn a_reader_too_slow_is_cut_and_one_of_some_pace_is_not() -> Result<()> {
    let service = Service::start(Bounds { slow: Duration::from_secs(2), ..Bounds::default() }).await?;
    let start = async |pace: usize| -> Result<bool> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        let mut stream = timeout(PATIENCE, socket.connect(service.address)).await??;
        stream.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let begun = Instant::now();
        let mut buffer = vec![0; pace];
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while begun.elapsed() < Duration::from_secs(12) {
            ticks.tick().await;
            if !matches!(timeout(PATIENCE, stream.read(&mut buffer)).await?, Ok(1..)) {
                return Ok(true);
            }
        }
        // What the kernel holds is read first; the end shows behind it.
        Ok(timeout(PATIENCE, async {
            let mut buffer = vec![0; 1024 * 1024];
            for _ in 0..64 {
                if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    return true;
                }
            }
            false
        })
        .await
        .unwrap_or(false))
    };
    let (slow, steady) = tokio::join!(start(20), start(20_000));
    assert!(slow?, "200 bytes a second went on");
    assert!(!steady?, "200 kB a second were cut");
    Ok(())
}
