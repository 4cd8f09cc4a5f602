//! Signing in with GitHub: the whole way, with a server that stands for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::{Answer, World};
use tokio::net::TcpListener;
use url::Url;

use super::browser::{Browser, signed_in, user_id};
use crate::answers::assert_problem;

const ID: &str = "Iv1.0123456789abcdef";
const SECRET: &str = "a-client-secret-of-forty-characters-0123";
const HERE: &str = "https://ledger.example.com";

/// Stands for GitHub: it gives codes for challenges, and tokens for codes whose verifier is right, once.
#[derive(Clone)]
struct GitHub(Arc<Parts>);

struct Parts {
    url: String,
    /// Number of codes so far.
    given: AtomicU64,
    /// Code → (challenge, redirect, user).
    codes: Mutex<HashMap<String, (String, String, u64)>>,
    /// What it answers instead.
    fault: Mutex<Option<StatusCode>>,
}

impl GitHub {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let github = Self(Arc::new(Parts {
            url,
            given: AtomicU64::new(0),
            codes: Mutex::default(),
            fault: Mutex::default(),
        }));
        let app = Router::new()
            .route("/login/oauth/access_token", post(exchange))
            .route("/user", get(user))
            .with_state(github.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(github)
    }

    async fn world(&self, registration: &'static str) -> Result<World> {
        let settings = [
            ("REGISTRATION", registration),
            ("PUBLIC_URL", HERE),
            ("GITHUB_CLIENT_ID", ID),
            ("GITHUB_CLIENT_SECRET", SECRET),
            ("GITHUB_URL", &self.0.url),
            ("GITHUB_API_URL", &self.0.url),
        ];
        World::without_worker(&settings).await
    }

    /// What GitHub's page does when this user of it says yes: the query of the way back.
    fn consent(&self, authorize_url: &str, user: u64) -> Result<String> {
        let url: Url = authorize_url.parse()?;
        assert!(
            authorize_url.starts_with(&format!("{}/login/oauth/authorize?", self.0.url)),
            "{authorize_url}"
        );
        let asked: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!((asked["client_id"].as_str(), asked["code_challenge_method"].as_str()), (ID, "S256"));
        assert_eq!(asked["redirect_uri"], format!("{HERE}/api/auth/github/callback"));
        assert!(asked.get("scope").is_none_or(String::is_empty), "nothing private is asked for");
        let code = format!("code-{}", self.0.given.fetch_add(1, Ordering::Relaxed));
        let kept = (asked["code_challenge"].clone(), asked["redirect_uri"].clone(), user);
        self.0.codes.lock().insert(code.clone(), kept);
        Ok(format!("code={code}&state={}", asked["state"]))
    }
}

async fn exchange(State(github): State<GitHub>, Form(form): Form<HashMap<String, String>>) -> Response {
    if let Some(status) = *github.0.fault.lock() {
        return (status, "<html>away</html>").into_response();
    }
    assert_eq!(form["client_secret"], SECRET);
    let wrong = Json(json!({"error": "bad_verification_code", "error_description": "incorrect or expired"}));
    let Some((challenge, redirect, user)) = github.0.codes.lock().remove(&form["code"]) else {
        return wrong.into_response();
    };
    let proof = form.get("code_verifier").map(|text| URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes())));
    if proof != Some(challenge) || form["redirect_uri"] != redirect {
        return wrong.into_response();
    }
    Json(json!({"access_token": format!("gho_{user}"), "scope": "", "token_type": "bearer"})).into_response()
}

async fn user(headers: HeaderMap, Query(_): Query<HashMap<String, String>>) -> Response {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let id: u64 = token.rsplit("gho_").next().and_then(|id| id.parse().ok()).unwrap_or_default();
    // GitHub's address proves nothing here, whoever verified it.
    Json(json!({"id": id, "login": format!("octo{id}"), "email": "ada@example.com"})).into_response()
}

/// The cookie of a sign-in that is under way.
fn sign_in_cookie(answer: &Answer) -> Result<String> {
    let mut lines = answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok());
    let line = lines.find(|line| line.starts_with("__Host-ul_sign_in=")).context("the cookie")?;
    Ok(line.split(';').next().unwrap_or_default().to_owned())
}

fn location(answer: &Answer) -> Result<String> {
    assert_eq!(answer.status, 303, "{}", answer.text());
    Ok(answer.header("location").context("location")?.to_owned())
}

/// Begins; answers GitHub's address and the cookie.
async fn begin(browser: &Browser, next: &str) -> Result<(String, String)> {
    let answer = browser.bare(Method::GET, &format!("/api/auth/github{next}")).send().await?;
    Ok((location(&answer)?, sign_in_cookie(&answer)?))
}

/// Comes back with this query and these cookies.
async fn come_back(browser: &mut Browser, query: &str, cookie: &str) -> Result<Answer> {
    let cookies = [Some(cookie.to_owned()), browser.cookie.clone()];
    let cookies: Vec<String> = cookies.into_iter().flatten().collect();
    let request = browser.bare(Method::GET, &format!("/api/auth/github/callback?{query}"));
    let answer = request.header("cookie", &cookies.join("; ")).send().await?;
    browser.keep(&answer);
    Ok(answer)
}

#[tokio::test]
async fn somebody_signs_in_with_github() -> Result<()> {
    let github = GitHub::start().await?;
    let world = github.world("open").await?;
    let mut browser = Browser::new(&world)?;
    let (url, cookie) = begin(&browser, "?next=/usage?month=2026-11").await?;
    let query = github.consent(&url, 7)?;
    let answer = come_back(&mut browser, &query, &cookie).await?;
    assert_eq!(location(&answer)?, format!("{HERE}/usage?month=2026-11"));
    let me = browser.get("/api/users/me").await?.expect(200)?.json()?;
    assert_eq!((&me["sign_in"]["github"], &me["sign_in"]["email"]), (&json!("octo7"), &Value::Null));
    // The same person again is the same user; another one is another.
    let first = user_id(&browser).await?;
    for (number, is_same) in [(7, true), (8, false)] {
        let mut browser = Browser::new(&world)?;
        let (url, cookie) = begin(&browser, "").await?;
        let query = github.consent(&url, number)?;
        assert_eq!(location(&come_back(&mut browser, &query, &cookie).await?)?, format!("{HERE}/account"));
        assert_eq!(user_id(&browser).await? == first, is_same);
    }
    Ok(())
}

/// Whatever is not as it was begun signs nobody in, and says so on a page.
#[tokio::test]
async fn what_does_not_fit_signs_nobody_in() -> Result<()> {
    let github = GitHub::start().await?;
    let world = github.world("open").await?;
    let away = |status| *github.0.fault.lock() = status;
    for (what, expected) in [
        ("another state", "expired"),
        ("no state", "expired"),
        ("no cookie", "expired"),
        ("another browser", "expired"),
        ("replayed", "expired"),
        ("replayed code", "refused"),
        ("no code", "refused"),
        ("made up code", "refused"),
        ("another's code", "refused"),
        ("said no", "denied"),
        ("too late", "expired"),
        ("away", "away"),
        ("broken", "away"),
    ] {
        let mut browser = Browser::new(&world)?;
        let (url, mut cookie) = begin(&browser, "").await?;
        let mut query = github.consent(&url, 7)?;
        let (code, state) = query.split_once('&').context("two")?;
        match what {
            "another state" => query = format!("{code}&state={}", "A".repeat(43)),
            "no state" => query = code.to_owned(),
            "no cookie" => cookie = "x=y".to_owned(),
            "another browser" => cookie = begin(&browser, "").await?.1,
            "replayed" => {
                come_back(&mut Browser::new(&world)?, &query, &cookie).await?;
            }
            "replayed code" => {
                come_back(&mut Browser::new(&world)?, &query, &cookie).await?;
                let (url, again) = begin(&browser, "").await?;
                let own = github.consent(&url, 7)?;
                let (_, state) = own.split_once('&').context("two")?;
                query = format!("{code}&{state}");
                cookie = again;
            }
            "no code" => query = state.to_owned(),
            "made up code" => query = format!("code=made-up&{state}"),
            // A code that was given for another challenge: whoever stole it has not its verifier.
            "another's code" => {
                let (url, _) = begin(&browser, "").await?;
                let theirs = github.consent(&url, 9)?;
                let (code, _) = theirs.split_once('&').context("two")?;
                query = format!("{code}&{state}");
            }
            "said no" => query = format!("error=access_denied&error_description=No%0d%0a%3Cb%3E&{state}"),
            "too late" => super::browser::later(&world, 11),
            "away" => away(Some(StatusCode::SERVICE_UNAVAILABLE)),
            _ => away(Some(StatusCode::OK)),
        }
        let answer = come_back(&mut browser, &query, &cookie).await?;
        away(None);
        assert_eq!(location(&answer)?, format!("{HERE}/sign-in?problem={expected}"), "{what}");
        assert_eq!(browser.cookie, None, "{what}");
    }
    Ok(())
}

/// Who has registered somebody's address gains nothing when its owner comes with GitHub, nor the other way round.
#[tokio::test]
async fn an_address_links_nobody() -> Result<()> {
    let github = GitHub::start().await?;
    let world = github.world("open").await?;
    let mallory = signed_in(&world, "ada@example.com").await?;
    let mut ada = Browser::new(&world)?;
    let (url, cookie) = begin(&ada, "").await?;
    let query = github.consent(&url, 7)?;
    come_back(&mut ada, &query, &cookie).await?;
    assert_ne!(user_id(&ada).await?, user_id(&mallory).await?);
    Ok(())
}

#[tokio::test]
async fn an_account_is_linked_from_its_own_session_alone() -> Result<()> {
    let github = GitHub::start().await?;
    let world = github.world("open").await?;
    let mut ada = signed_in(&world, "ada@example.com").await?;
    let mut mallory = signed_in(&world, "mallory@example.com").await?;
    let start = |browser: &Browser| browser.request(Method::POST, "/api/auth/github").send();
    let link = |answer: &Answer| -> Result<(String, String)> {
        let url = answer.json()?["authorize_url"].as_str().context("authorize_url")?.to_owned();
        Ok((url, sign_in_cookie(answer)?))
    };
    let bare = ada
        .bare(Method::POST, "/api/auth/github")
        .header("cookie", ada.cookie.as_deref().unwrap_or_default());
    assert_problem(&bare.send().await?, 403, "cross_site");
    // Mallory's attempt, finished in Ada's browser, links nothing.
    let (url, cookie) = link(&start(&mallory).await?.expect(200)?)?;
    let query = github.consent(&url, 666)?;
    let answer = come_back(&mut ada, &query, &cookie).await?;
    assert_eq!(location(&answer)?, format!("{HERE}/sign-in?problem=expired"));
    let (url, cookie) = link(&start(&ada).await?.expect(200)?)?;
    let query = github.consent(&url, 7)?;
    assert_eq!(location(&come_back(&mut ada, &query, &cookie).await?)?, format!("{HERE}/account"));
    let me = ada.get("/api/users/me").await?.expect(200)?.json()?;
    assert_eq!(me["sign_in"]["github"], "octo7");
    // Another user does not take it over.
    let (url, cookie) = link(&start(&mallory).await?.expect(200)?)?;
    let query = github.consent(&url, 7)?;
    let answer = come_back(&mut mallory, &query, &cookie).await?;
    assert_eq!(location(&answer)?, format!("{HERE}/sign-in?problem=taken"));
    // It is a way in from now on, until it is taken away.
    let mut browser = Browser::new(&world)?;
    let (url, cookie) = begin(&browser, "").await?;
    let query = github.consent(&url, 7)?;
    come_back(&mut browser, &query, &cookie).await?;
    assert_eq!(user_id(&browser).await?, user_id(&ada).await?);
    ada.delete("/api/auth/github").await?.expect(204)?;
    ada.delete("/api/auth/github").await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn without_a_link_nobody_gets_in_where_registration_is_closed() -> Result<()> {
    let github = GitHub::start().await?;
    let world = github.world("closed").await?;
    let mut browser = Browser::new(&world)?;
    let (url, cookie) = begin(&browser, "?next=//evil.example").await?;
    let query = github.consent(&url, 7)?;
    let answer = come_back(&mut browser, &query, &cookie).await?;
    assert_eq!(location(&answer)?, format!("{HERE}/sign-in?problem=not_linked"));
    // Where GitHub is no way in there is nothing.
    let world = World::without_worker(&[]).await?;
    let browser = Browser::new(&world)?;
    assert_problem(&browser.bare(Method::GET, "/api/auth/github").send().await?, 404, "not_found");
    assert_eq!(
        browser.get("/api/auth/methods").await?.json()?,
        json!({"registration": "closed", "github": false})
    );
    Ok(())
}
