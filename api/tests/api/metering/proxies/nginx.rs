//! A real nginx asks with `auth_request`.

use anyhow::{Context, Result};
use testkit::{Client, World};

use super::{
    Backend, NAMED, Proxy, TRUSTED, counted, example, forged_paths_do_not_pass, free_port,
    heard_of_forged_callers, says_who_called, uncommented,
};

/// Four ways of an internal redirect, each of which asks again. `www` holds the pages.
const REDIRECTS: &str = r"
    location /api/analyze/pages/ { root www; index index.html; }
    location /api/analyze/tried { root www; try_files $uri /api/analyze/pages/index.html; }
    location /api/analyze/missing {
        proxy_pass http://backend;
        proxy_intercept_errors on;
        error_page 404 /api/analyze/pages/404.html;
    }
    location /api/analyze/accel { proxy_pass http://backend; }
    location /kept/ { internal; alias www/api/analyze/pages/; }

    location / {";

/// The redirects, by the request that causes each: method, path, status, and the page that is served.
const WAYS: [(&str, &str, u16, &str); 5] = [
    ("GET", "/api/analyze/pages/", 200, "index"),
    ("GET", "/api/analyze/tried", 200, "index"),
    ("GET", "/api/analyze/missing", 404, "not here"),
    ("POST", "/api/analyze/missing/7", 404, "not here"),
    ("GET", "/api/analyze/accel", 200, "page"),
];

/// nginx with the example's configuration, changed by `change`.
async fn start(world: &World, backend: &Backend, change: impl Fn(&str) -> String) -> Result<Proxy> {
    let dir = tempfile::tempdir()?;
    let pages = dir.path().join("www/api/analyze/pages");
    std::fs::create_dir_all(&pages)?;
    for (name, page) in [("index.html", "index"), ("404.html", "not here"), ("page.html", "page")] {
        std::fs::write(pages.join(name), page)?;
    }
    let port = free_port().await?;
    let server = change(&example("nginx.conf", port, &world.api.url, &backend.url)?);
    let dir_text = dir.path().to_str().context("a path of text")?.to_owned();
    let server = server.replace(" www", &format!(" {dir_text}/www"));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {dir_text}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {dir_text}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n    \
         access_log off;\n{temporary}{server}}}\n"
    );
    let arguments = ["-p", &dir_text, "-e", "stderr", "-c", &format!("{dir_text}/nginx.conf")];
    Proxy::start("nginx", port, dir, ("nginx.conf", &config), &arguments).await
}

fn with_redirects(config: &str) -> String {
    config.replace("\n    location / {", REDIRECTS)
}

async fn send(client: &Client, method: &str, path: &str) -> Result<testkit::Answer> {
    client.request(method.parse()?, path).send().await
}

#[tokio::test]
async fn nginx_passes_what_the_plan_allows() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let nginx = start(&world, &backend, str::to_owned).await?;
    nginx.client()?.get("/api/analyze").send().await?.expect(401)?;
    let user = nginx.user(&world, "behind-nginx")?;
    for left in (0..10).rev() {
        let path = ["/api/analyze?file=a", "//api/%61nalyze", "/api/x/../Analyze"][left % 3];
        let answer = user.post(path).body("text/plain", "x".repeat(5_000)).send().await?.expect(200)?;
        let limit = answer.header("ratelimit").context("RateLimit")?;
        assert!(limit.starts_with(&format!("\"analyze\";r={left};")), "{limit}");
        assert_eq!(answer.text(), world.user_id("behind-nginx").await?.to_string());
    }
    user.get("/api/analyze").send().await?.expect(403)?;
    // What a client says in the proxy's headers is overwritten; it never passes for more.
    forged_paths_do_not_pass(&user, 403).await?;
    for _ in 0..2 {
        // A client that chooses its id pays all the same.
        user.get("/other").header("X-Ledger-Request-Id", "mine").send().await?.expect(200)?;
    }
    assert_eq!(backend.passed(), 12);
    assert_eq!(world.summary("behind-nginx").await?, (12, 10));
    super::takes_keys(&nginx, &world).await
}

#[tokio::test]
async fn one_request_counts_once_whatever_nginx_makes_of_it() -> Result<()> {
    let backend = Backend::start().await?;
    // Without an id of the request each redirect is a call: what this is about.
    for (settings, calls) in [(&[TRUSTED, NAMED][..], 1), (&[TRUSTED], 2)] {
        let world = World::with(settings).await?;
        let nginx = start(&world, &backend, with_redirects).await?;
        for (number, (method, path, status, page)) in WAYS.into_iter().enumerate() {
            let name = format!("user-{number}");
            let answer = send(&nginx.user(&world, &name)?, method, path).await?.expect(status)?;
            assert_eq!(answer.text(), page, "{method} {path}");
            assert_eq!(counted(&world, &name).await?, calls, "{method} {path}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_last_unit_is_enough_for_every_way_of_redirect() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let nginx = start(&world, &backend, with_redirects).await?;
    for (number, (method, path, status, page)) in WAYS.into_iter().enumerate() {
        let name = format!("last-{number}");
        let user = nginx.user(&world, &name)?;
        for _ in 0..9 {
            user.get("/api/analyze").send().await?.expect(200)?;
        }
        let last = send(&user, method, path).await?.expect(status)?;
        assert_eq!(last.text(), page, "{method} {path}");
        send(&user, method, path).await?.expect(403)?;
        assert_eq!(world.summary(&name).await?, (10, 10), "{method} {path}");
    }
    Ok(())
}

/// What ingress-nginx's template makes of its annotations.
#[tokio::test]
async fn ingress_nginx_names_the_request_by_its_url() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let nginx = start(&world, &backend, |config| {
        let config =
            config.replace("X-Original-URI $request_uri", "X-Original-URL $scheme://$http_host$request_uri");
        config.replace("        proxy_set_header X-Original-URL \"\";\n", "")
    })
    .await?;
    let user = nginx.user(&world, "behind-ingress")?;
    for left in (0..10).rev() {
        let answer = user.get("/api/analyze?x=1").send().await?.expect(200)?;
        let limit = answer.header("ratelimit").context("RateLimit")?;
        assert!(limit.starts_with(&format!("\"analyze\";r={left};")), "{limit}");
    }
    user.get("/api/analyze").send().await?.expect(403)?;
    // The client chooses its Host, and with it no other path.
    for host in ["h?", "h#", "h?x="] {
        user.get("/api/analyze").header("Host", host).send().await?.expect(403)?;
    }
    assert_eq!(world.summary("behind-ingress").await?, (10, 10));
    Ok(())
}

#[tokio::test]
async fn nobody_says_to_the_backend_who_they_are() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED, ("FORWARD_AUTH_PREFLIGHT", "pass")]).await?;
    let backend = Backend::start().await?;
    let proxy = start(&world, &backend, str::to_owned).await?;
    let user = proxy.user(&world, "honest")?;
    let [call, preflight] = heard_of_forged_callers(&proxy.client()?, &user).await?;
    let id = world.user_id("honest").await?.to_string();
    says_who_called(&call, &id)?;
    assert_eq!(preflight, " ", "nobody and no call");
    Ok(())
}

/// The block that answers preflights, which is a comment in the example, is one that nginx takes.
#[tokio::test]
async fn nginx_answers_preflights_by_itself_where_it_is_told_to() -> Result<()> {
    let world = World::with(&[TRUSTED, NAMED]).await?;
    let backend = Backend::start().await?;
    let nginx = start(&world, &backend, uncommented).await?;
    let preflight = nginx.client()?.request(axum::http::Method::OPTIONS, "/api/analyze");
    let preflight = preflight.header("Origin", "https://a.example");
    let answer = preflight.header("Access-Control-Request-Method", "POST").send().await?.expect(204)?;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PUT")));
    assert_eq!(backend.passed(), 0);
    nginx.client()?.get("/api/analyze").send().await?.expect(401)?;
    nginx.user(&world, "other-origin")?.get("/api/analyze").send().await?.expect(200)?;
    assert_eq!(world.summary("other-origin").await?, (1, 1));
    Ok(())
}
