//! Real proxies ask before they pass a request to a backend, with the configurations of `examples/proxies`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::json;
use testkit::{Client, PATIENCE, World, wait_until};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod caddy;
mod envoy;
mod nginx;

/// Settings under which proxies on this machine are believed.
const TRUSTED: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.0/8");
const NAMED: (&str, &str) = ("FORWARD_AUTH_ID_HEADER", "X-Ledger-Request-Id");

/// An API key passes, in each way that it may come, and its calls are its user's.
async fn takes_keys(proxy: &Proxy, world: &World) -> Result<()> {
    let made = crate::accounts::key(world, "behind-a-key", &["check"], json!({})).await?;
    let nobody = proxy.client()?;
    for (name, value) in [
        ("authorization", format!("Bearer {}", made.secret)),
        ("authorization", format!("token {}", made.secret)),
        ("x-api-key", made.secret.clone()),
    ] {
        let answer = nobody.get("/other").header(name, &value).send().await?.expect(200)?;
        assert_eq!(answer.text(), world.user_id("behind-a-key").await?.to_string(), "{name}");
    }
    assert_eq!(world.summary("behind-a-key").await?, (3, 0));
    Ok(())
}

/// A proxy's process; killed with this value.
struct Proxy {
    child: Child,
    /// Where it listens.
    url: String,
    dir: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Runs `program` on a file of this content in a directory of its own, until it answers.
    async fn start(
        program: &str,
        port: u16,
        dir: tempfile::TempDir,
        config: (&str, &str),
        arguments: &[&str],
    ) -> Result<Self> {
        let (name, content) = config;
        std::fs::write(dir.path().join(name), content)?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(find(program))
            .args(arguments)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .with_context(|| format!("{program} must be there: run scripts/setup-proxies"))?;
        let mut proxy = Self { child, url: format!("http://127.0.0.1:{port}"), dir };
        let anonymous = proxy.client()?;
        let started = std::time::Instant::now();
        while anonymous.get("/").send().await.is_err() {
            let ended = proxy.child.try_wait()?;
            anyhow::ensure!(ended.is_none() && started.elapsed() < PATIENCE, "{program}: {}", proxy.log());
            tokio::task::yield_now().await;
        }
        Ok(proxy)
    }

    fn client(&self) -> Result<Client> {
        Client::new(&self.url)
    }

    fn user(&self, world: &World, name: &str) -> Result<Client> {
        Ok(self.client()?.with_token(world.env.token(name, testkit::Role::User)))
    }

    /// What it says of itself.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// A program of PATH, or the one that `scripts/setup-proxies` fetched.
fn find(program: &str) -> PathBuf {
    let fetched = root().join(".dev/bin").join(program);
    if fetched.exists() { fetched } else { program.into() }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A configuration of `examples/proxies` for these addresses, in the place of those that stand there.
fn example(name: &str, port: u16, ledger: &str, backend: &str) -> Result<String> {
    let mut text = std::fs::read_to_string(root().join("examples/proxies").join(name))?;
    let port_of = |url: &str| url.rsplit(':').next().map(str::to_owned).context("an address with a port");
    for (there, here) in [("8000", port.to_string()), ("8080", port_of(ledger)?), ("3000", port_of(backend)?)]
    {
        for form in ["127.0.0.1:", "port_value: "] {
            text = text.replace(&format!("{form}{there}"), &format!("{form}{here}"));
        }
    }
    Ok(text)
}

/// A port that was free a moment ago; nothing else on this machine binds ports of its own choice in between.
async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// The configuration with the lines in effect that it holds as a comment, `#` before a line without a blank.
fn uncommented(config: &str) -> String {
    let in_effect = config.lines().map(|line| {
        let code = line.trim_start();
        match code.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') || rest.starts_with("    ") => {
                format!("{}{rest}", &line[..line.len() - code.len()])
            }
            _ => line.to_owned(),
        }
    });
    in_effect.collect::<Vec<_>>().join("\n") + "\n"
}

/// Paths and methods that a client says in the proxies' headers, all of which would pass.
const FORGED: [[(&str, &str); 2]; 3] = [
    [("X-Original-URI", "/other"), ("X-Original-Method", "OPTIONS")],
    [("X-Forwarded-Uri", "/other"), ("X-Forwarded-Method", "GET")],
    [("X-Original-URL", "http://h/other"), ("X-Original-Method", "GET")],
];

/// Holds a user who may not analyze any more to this answer, whatever the client says in the proxies' headers.
async fn forged_paths_do_not_pass(user: &Client, status: u16) -> Result<()> {
    for headers in FORGED {
        let request = headers
            .iter()
            .fold(user.get("/api/analyze"), |request, (name, value)| request.header(name, value));
        request.send().await?.expect(status)?;
    }
    Ok(())
}

/// Checks that the backend has heard who it was that called, and which call it is.
fn says_who_called(call: &str, user_id: &str) -> Result<()> {
    let (said, call_id) = call.split_once(' ').context("user and call")?;
    assert_eq!((said, call_id.len()), (user_id, 36), "{call}");
    Ok(())
}

/// What the backend hears of who calls when a client says that it is another: of a call, and of a preflight that the
/// ledger passes without knowing anybody.
async fn heard_of_forged_callers(client: &Client, user: &Client) -> Result<[String; 2]> {
    let forged = |client: &Client, method: axum::http::Method| {
        let request = client.request(method, "/api/x").header("X-User-Id", "forged");
        request.header("X-Usage-Call-Id", "forged").header("X-Say-Call", "1")
    };
    let call = forged(user, axum::http::Method::GET).send().await?.expect(200)?;
    let preflight = forged(client, axum::http::Method::OPTIONS).header("Origin", "https://a.example");
    let preflight = preflight.header("Access-Control-Request-Method", "PUT").send().await?.expect(200)?;
    Ok([call.text(), preflight.text()])
}

/// A backend: it knows no path that holds `missing`, has nginx serve `accel`, and else answers whose request it was,
/// and on demand which call.
struct Backend {
    url: String,
    passed: Arc<AtomicUsize>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Backend {
    async fn start() -> Result<Self> {
        let passed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&passed);
        let app = Router::new().fallback(move |request: Request| {
            counted.fetch_add(1, Ordering::Relaxed);
            async {
                let (head, body) = request.into_parts();
                // An answer before the body is read closes the connection; the proxy may make a 502 of that.
                match body.collect().await {
                    Ok(_) => answer(&head),
                    Err(_) => StatusCode::BAD_REQUEST.into_response(),
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { url, passed, serving })
    }

    fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

fn answer(request: &Parts) -> Response {
    let path = request.uri.path();
    if path.contains("missing") {
        return (StatusCode::NOT_FOUND, "no such thing").into_response();
    }
    if path.contains("accel") {
        return [("x-accel-redirect", "/kept/page.html")].into_response();
    }
    let said = |name| {
        let values = request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    };
    let mut text = said("x-user-id");
    if request.headers.contains_key("x-say-call") {
        text = format!("{text} {}", said("x-usage-call-id"));
    }
    text.into_response()
}

/// Waits until the user's summary has this total; what counts twice has more.
async fn counted(world: &World, user: &str) -> Result<i64> {
    wait_until(PATIENCE, || async { world.summary(user).await.is_ok() }).await;
    Ok(world.summary(user).await?.0)
}
