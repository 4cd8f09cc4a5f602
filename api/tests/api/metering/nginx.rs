//! A real nginx asks with `auth_request` before it passes a request to a backend.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::HeaderMap;
use testkit::{Client, World, wait_until};
use tokio::net::TcpListener;

/// A private nginx; killed with this value.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, port: u16, api: &str, backend: &str) -> Result<Nginx> {
    let dir_text = dir.to_str().context("a path of text")?;
    let config = format!(
        r#"
daemon off;
master_process off;
pid {dir_text}/pid;
error_log {dir_text}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {dir_text}/body;
    proxy_temp_path {dir_text}/proxy;
    fastcgi_temp_path {dir_text}/fastcgi;
    uwsgi_temp_path {dir_text}/uwsgi;
    scgi_temp_path {dir_text}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            auth_request /_usage;
            auth_request_set $user_id $upstream_http_x_user_id;
            auth_request_set $remaining $upstream_http_x_usage_remaining;
            add_header X-Usage-Remaining $remaining always;
            proxy_set_header X-User-Id $user_id;
            proxy_pass {backend};
        }}
        location = /_usage {{
            internal;
            proxy_pass {api}/api/forward-auth?deny_status=403;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-URI $request_uri;
            proxy_set_header X-Original-Method $request_method;
        }}
    }}
}}
"#
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config)?;
    let child = Command::new("nginx")
        .args(["-p", dir_text, "-e", &format!("{dir_text}/error.log"), "-c"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("nginx must be installed")?;
    Ok(Nginx(child))
}

#[tokio::test]
async fn nginx_passes_what_the_plan_allows() -> Result<()> {
    let world = World::start().await?;
    let passed = Arc::new(AtomicUsize::new(0));
    let backend = {
        let passed = Arc::clone(&passed);
        Router::new().fallback(move |headers: HeaderMap| {
            let count = passed.fetch_add(1, Ordering::Relaxed);
            let user =
                headers.get("x-user-id").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            async move { format!("{user} {count}") }
        })
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let backend_url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(async move { axum::serve(listener, backend).await });
    // Free a moment ago; nothing else on this machine binds ports of its own choice in between.
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let dir = tempfile::tempdir()?;
    let _nginx = start(dir.path(), port, &world.api.url, &backend_url)?;
    let url = format!("http://127.0.0.1:{port}");
    let anonymous = Client::new(&url)?;
    wait_until(Duration::from_secs(10), || async { anonymous.get("/").send().await.is_ok() }).await;
    anonymous.get("/api/analyze").send().await?.expect(401)?;

    let user = anonymous.with_token(world.env.token("behind-nginx", testkit::Role::User));
    for left in (0..10).rev() {
        let path = ["/api/analyze?file=a", "//api/%61nalyze", "/api/x/../analyze"][left % 3];
        let answer = user.post(path).body("text/plain", "x".repeat(5_000)).send().await?.expect(200)?;
        assert_eq!(answer.header("x-usage-remaining"), Some(left.to_string().as_str()));
        assert!(answer.text().starts_with(&world.user_id("behind-nginx").await?.to_string()));
    }
    user.get("/api/analyze").send().await?.expect(403)?;
    // What a client says in the proxy's headers makes the question ambiguous or is overwritten; it never passes for
    // more.
    let forged =
        user.get("/api/analyze").header("X-Original-URI", "/other").header("X-Original-Method", "OPTIONS");
    forged.send().await?.expect(403)?;
    let forged =
        user.get("/api/analyze").header("X-Forwarded-Uri", "/other").header("X-Forwarded-Method", "GET");
    forged.send().await?.expect(403)?;
    user.get("/other").send().await?.expect(200)?;
    assert_eq!(passed.load(Ordering::Relaxed), 11);
    assert_eq!(world.summary("behind-nginx").await?, (11, 10));
    serving.abort();
    Ok(())
}
