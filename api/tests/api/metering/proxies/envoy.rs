//! A real Envoy asks with `ext_authz`.

use anyhow::{Context, Result};
use testkit::{Role, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Backend, Proxy, TRUSTED, example, free_port, heard_of_forged_callers, says_who_called};

/// Envoy's own id of a request.
const NAMED: (&str, &str) = ("FORWARD_AUTH_ID_HEADER", "x-request-id");

/// Envoy with the example's configuration, changed by `change`, in front of `backend`.
async fn start(world: &World, backend: &str, change: impl Fn(String) -> String) -> Result<Proxy> {
    let port = free_port().await?;
    let config = change(example("envoy.yaml", port, &world.api.url, backend)?);
    let arguments =
        ["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"];
    Proxy::start("envoy", port, tempfile::tempdir()?, ("envoy.yaml", &config), &arguments).await
}

#[tokio::test]
async fn envoy_passes_what_the_plan_allows() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let envoy = start(&world, &backend.url, |config| config).await?;
    envoy.client()?.get("/api/analyze").send().await?.expect(401)?;
    let user = envoy.user(&world, "behind-envoy")?;
    for number in 0..10 {
        let path = ["/api/analyze?file=a", "//api/%61nalyze", "/api/x/../Analyze"][number % 3];
        let answer = user.post(path).body("text/plain", "x".repeat(5_000)).send().await?.expect(200)?;
        assert_eq!(answer.text(), world.user_id("behind-envoy").await?.to_string());
        assert!(answer.header("ratelimit").is_some() && answer.header("x-usage-remaining").is_some());
    }
    let refused = user.get("/api/analyze").send().await?.expect(429)?;
    assert_eq!(refused.code(), "quota_exceeded");
    assert!(refused.header("retry-after").is_some());
    let forged =
        user.get("/api/analyze").header("X-Forwarded-Uri", "/other").header("X-Forwarded-Method", "GET");
    forged.send().await?.expect(429)?;
    for _ in 0..2 {
        // A client that chooses its id pays all the same.
        user.get("/other")
            .header("x-request-id", "6f1c0a52-7d0e-4a8b-9c43-0f5b7e1d2a90")
            .send()
            .await?
            .expect(200)?;
    }
    assert_eq!(backend.passed(), 12);
    assert_eq!(world.summary("behind-envoy").await?, (12, 10));
    super::takes_keys(&envoy, &world).await
}

/// An Envoy behind another one, as in a mesh: both ask.
#[tokio::test]
async fn one_request_counts_once_through_two_envoys() -> Result<()> {
    let backend = Backend::start().await?;
    for (settings, calls) in [(&[TRUSTED, NAMED][..], 1), (&[TRUSTED], 2)] {
        let world = World::with(settings).await?;
        let inner = start(&world, &backend.url, |config| {
            let lines = config.lines().filter(|line| {
                !line.contains("use_remote_address:") && !line.contains("internal_address_config:")
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .await?;
        let outer = start(&world, &inner.url, |config| config).await?;
        let user = outer.user(&world, "meshed")?;
        user.post("/api/analyze").body("text/plain", "x").send().await?.expect(200)?;
        assert_eq!(world.summary("meshed").await?, (calls, calls));
        if calls == 1 {
            for _ in 0..9 {
                user.get("/api/analyze").send().await?.expect(200)?;
            }
            user.get("/api/analyze").send().await?.expect(429)?;
            assert_eq!(world.summary("meshed").await?, (10, 10));
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_says_to_the_backend_who_they_are() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED, ("FORWARD_AUTH_PREFLIGHT", "pass")]).await?;
    let backend = Backend::start().await?;
    let proxy = start(&world, &backend.url, |config| with_preflights(&config)).await?;
    let user = proxy.user(&world, "honest")?;
    let [call, preflight] = heard_of_forged_callers(&proxy.client()?, &user).await?;
    let id = world.user_id("honest").await?.to_string();
    says_who_called(&call, &id)?;
    assert_eq!(preflight, " ", "nobody and no call");
    Ok(())
}

/// The ledger hears of preflights, as it does not in the example.
fn with_preflights(config: &str) -> String {
    let one = "                - { exact: user-agent }\n";
    let further = ["origin", "access-control-request-method"].map(|name| one.replace("user-agent", name));
    config.replace(one, &(one.to_owned() + &further.concat()))
}

/// No client library sends one.
#[tokio::test]
async fn envoy_refuses_a_raw_fragment() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let envoy = start(&world, &backend.url, |config| config).await?;
    let token = world.env.token("fragment", Role::User);
    let address = envoy.url.strip_prefix("http://").context("an address")?;
    for (path, status) in [("/other#/../api/analyze", 400), ("/api/analyze#x", 400), ("/other?x=%23", 200)] {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    assert_eq!(backend.passed(), 1);
    assert_eq!(world.summary("fragment").await?, (1, 0));
    Ok(())
}
