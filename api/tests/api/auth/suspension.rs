//! A suspension reaches the api even when the connection that would announce it is dead without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use testkit::{Api, Env, PATIENCE, Role, wait_until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// Between the api and PostgreSQL. Of a connection that listens nothing comes through any more once `is_cut`, as when
/// a firewall has forgotten it.
struct Proxy {
    url: String,
    is_cut: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(database_url: &str) -> Result<Self> {
        let mut url = Url::parse(database_url)?;
        let address = (url.host_str().context("a host")?.to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let is_cut = Arc::new(AtomicBool::new(false));
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(listener.local_addr()?.port())).map_err(|()| anyhow::anyhow!("no port"))?;
        let cut = Arc::clone(&is_cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&address).await.expect("the database");
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let listens = Arc::new(AtomicBool::new(false));
                tokio::spawn(copy(from_client, to_server, Arc::clone(&listens), Arc::clone(&cut)));
                tokio::spawn(copy(from_server, to_client, listens, Arc::clone(&cut)));
            }
        });
        Ok(Self { url: url.into(), is_cut })
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    listens: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut was_there_when_cut = false;
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..length];
        was_there_when_cut |= cut.load(Ordering::SeqCst) && listens.load(Ordering::SeqCst);
        if was_there_when_cut {
            continue;
        }
        if bytes.windows(6).any(|word| word == b"LISTEN") && !cut.load(Ordering::SeqCst) {
            listens.store(true, Ordering::SeqCst);
        }
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_noticed_though_the_listening_connection_is_dead() -> Result<()> {
    let env = Env::start().await?;
    let proxy = Proxy::start(env.database_url()).await?;
    let api = Api::start(&env, &[("DATABASE_URL", proxy.url.as_str())]).await?;
    wait_until(PATIENCE, || async { api.handle.limits.readiness().is_ok() }).await;
    let user = testkit::Client::new(&api.url)?.with_token(env.token("suspended", Role::User));
    let stats = || async { user.get("/api/usage/stats").send().await.map(|answer| answer.status.as_u16()) };
    assert_eq!(stats().await?, 200);
    proxy.is_cut.store(true, Ordering::SeqCst);
    sqlx::query("UPDATE public.users SET status = 'suspended' WHERE external_id = 'suspended'")
        .execute(env.pool())
        .await?;
    sqlx::query("NOTIFY ledger_users").execute(env.pool()).await?;
    assert_eq!(stats().await?, 200, "it was announced all the same: the proxy cuts nothing");
    wait_until(PATIENCE, || async { stats().await.is_ok_and(|status| status == 403) }).await;
    api.stop().await
}
