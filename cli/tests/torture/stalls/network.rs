//! A network that can fall silent: nothing is refused, nothing is closed, nothing arrives.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// The way to one server.
pub(super) struct Network {
    port: u16,
    silent: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Network {
    /// A way to the server of this URL.
    pub(super) async fn to(url: &str) -> Result<Self> {
        let target = Arc::new(format!("127.0.0.1:{}", port_of(url)?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let silent = watch::Sender::new(false);
        let is_silent = silent.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(join(client, Arc::clone(&target), is_silent.clone()));
            }
        });
        Ok(Self { port, silent, _tasks: tasks })
    }

    /// The URL by this way.
    pub(super) fn via(&self, url: &str) -> Result<String> {
        Ok(url.replace(&format!(":{}", port_of(url)?), &format!(":{}", self.port)))
    }

    /// Falls silent, or speaks again. What was sent over a connection arrives then; a connection that was made in
    /// between stays silent for ever.
    pub(super) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

fn port_of(url: &str) -> Result<u16> {
    let (_, host) = url.rsplit_once('@').or_else(|| url.split_once("://")).context("no address")?;
    let (_, port) = host.split_once(':').context("no port")?;
    Ok(port.split('/').next().unwrap_or(port).parse()?)
}

async fn join(client: TcpStream, target: Arc<String>, silent: watch::Receiver<bool>) {
    if *silent.borrow() {
        // The address answers, and nobody behind it.
        std::future::pending::<()>().await;
    }
    let Ok(server) = TcpStream::connect(target.as_str()).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, silent.clone()) => {}
        () = copy(from_server, to_client, silent) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if silent.wait_for(|silent| !silent).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // A goodbye does not arrive either.
    let _ = silent.wait_for(|silent| !silent).await;
}
