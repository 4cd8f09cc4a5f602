//! A real Caddy asks with `forward_auth`.

use anyhow::{Context, Result};
use testkit::World;

use super::{
    Backend, NAMED, Proxy, TRUSTED, example, forged_paths_do_not_pass, free_port, heard_of_forged_callers,
    says_who_called,
};

/// Caddy with the example's configuration, changed by `change`.
async fn start(world: &World, backend: &Backend, change: impl Fn(String) -> String) -> Result<Proxy> {
    let port = free_port().await?;
    let config = change(example("Caddyfile", port, &world.api.url, &backend.url)?);
    let arguments = ["run", "--config", "Caddyfile", "--adapter", "caddyfile"];
    Proxy::start("caddy", port, tempfile::tempdir()?, ("Caddyfile", &config), &arguments).await
}

#[tokio::test]
async fn caddy_passes_what_the_plan_allows() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let caddy = start(&world, &backend, |config| config).await?;
    caddy.client()?.get("/api/analyze").send().await?.expect(401)?;
    let user = caddy.user(&world, "behind-caddy")?;
    for number in 0..10 {
        let path = ["/api/analyze?file=a", "/api/%61nalyze", "/API/Analyze"][number % 3];
        let answer = user.post(path).body("text/plain", "x".repeat(5_000)).send().await?.expect(200)?;
        assert_eq!(answer.text(), world.user_id("behind-caddy").await?.to_string());
    }
    let refused = user.get("/api/analyze").send().await?.expect(429)?;
    assert_eq!(refused.code(), "quota_exceeded");
    assert!(refused.header("retry-after").is_some());
    forged_paths_do_not_pass(&user, 429).await?;
    for _ in 0..2 {
        user.get("/other").header("X-Ledger-Request-Id", "mine").send().await?.expect(200)?;
    }
    assert_eq!(backend.passed(), 12);
    assert_eq!(world.summary("behind-caddy").await?, (12, 10));
    super::takes_keys(&caddy, &world).await
}

/// A backend that is away makes Caddy handle the request again, as an error.
#[tokio::test]
async fn one_request_counts_once_though_its_error_is_handled_behind_the_ledger() -> Result<()> {
    let backend = Backend::start().await?;
    let nowhere = free_port().await?;
    for (settings, calls) in [(&[TRUSTED, NAMED][..], 1), (&[TRUSTED], 2)] {
        let world = World::with(settings).await?;
        let caddy = start(&world, &backend, |config| {
            let errors = "\thandle_errors {\n\t\timport usage_ledger\n\t\trespond \"sorry\" 502\n\t}\n\thandle {\n";
            let away = format!("\thandle /api/analyze/away {{\n\t\timport usage_ledger\n\t\treverse_proxy 127.0.0.1:{nowhere}\n\t}}\n");
            config.replacen("\thandle {\n", &(away + errors), 1)
        })
        .await?;
        let user = caddy.user(&world, "away")?;
        let answer = user.post("/api/analyze/away").body("text/plain", "x").send().await?.expect(502)?;
        assert_eq!(answer.text(), "sorry");
        assert_eq!(world.summary("away").await?, (calls, calls));
        if calls == 1 {
            for _ in 0..8 {
                user.get("/api/analyze").send().await?.expect(200)?;
            }
            let last = user.get("/api/analyze/away").send().await?.expect(502)?;
            assert_eq!(last.text(), "sorry", "not refused by its own repetition");
            user.get("/api/analyze")
                .send()
                .await?
                .expect(429)?
                .header("retry-after")
                .context("Retry-After")?;
            assert_eq!(world.summary("away").await?, (10, 10));
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_says_to_the_backend_who_they_are() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED, ("FORWARD_AUTH_PREFLIGHT", "pass")]).await?;
    let backend = Backend::start().await?;
    let proxy = start(&world, &backend, |config| config).await?;
    let user = proxy.user(&world, "honest")?;
    let [call, preflight] = heard_of_forged_callers(&proxy.client()?, &user).await?;
    let id = world.user_id("honest").await?.to_string();
    says_who_called(&call, &id)?;
    // Before 2.7 Caddy writes the name of what the ledger did not say.
    let unsaid = " {http.reverse_proxy.header.X-User-Id} {http.reverse_proxy.header.X-Usage-Call-Id}";
    let of_caddy = preflight.split(' ').all(|part| part.is_empty() || unsaid.contains(part));
    assert!(of_caddy, "{preflight}");
    Ok(())
}
