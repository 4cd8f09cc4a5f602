//! What is logged while people sign in with GitHub. A program of its own, as `provider_logs.rs` is.

mod lines;

use axum::http::StatusCode;
use outbound::github::{GitHub, GitHubSettings, GitHubUrls, Verifier};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use vault::SecretText;

use crate::lines::{Lines, answering};

const VERIFIER: &str = "verifier-canary-0123456789-0123456789-012345";
const SECRET: &str = "secret_canary";
const TOKEN: &str = "gho_canary";

#[tokio::test]
async fn no_line_holds_a_secret_or_an_answer() -> anyhow::Result<()> {
    let lines = Lines::default();
    let _guard = lines.listen();
    for status in [200, 302, 400, 401, 429, 500] {
        let body =
            format!(r#"{{"access_token": "{TOKEN}", "token_type": "bearer", "login": "canary", "id": 7}}"#);
        let (url, _server) = github(StatusCode::from_u16(status)?, body).await?;
        assert_eq!(sign_in(&url).await?, [status == 200; 2], "{status}");
        let body = format!(
            r#"{{"error": "nope", "error_description": "{SECRET} is wrong", "access_token": "{TOKEN}"}}"#
        );
        let (url, _server) = github(StatusCode::from_u16(status)?, body).await?;
        assert_eq!(sign_in(&url).await?, [false; 2], "{status}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    assert_eq!(sign_in(&format!("http://{closed}").parse()?).await?, [false; 2]);
    let text = lines.text()?;
    assert!(text.contains("hyper_util"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    Ok(())
}

/// Whether a token came, and a user.
async fn sign_in(url: &Url) -> anyhow::Result<[bool; 2]> {
    let settings = GitHubSettings {
        client_id: "id".to_owned(),
        client_secret: SecretString::from(SECRET),
        urls: GitHubUrls { web: url.clone(), api: url.clone() },
    };
    let github = GitHub::new(&settings)?;
    let verifier = Verifier::new(VERIFIER.to_owned())?;
    let token = github.exchange("code_canary", &verifier, &url.join("/back")?).await;
    let user = github.user(&SecretText::new(TOKEN.to_owned())).await;
    tracing::info!(token = token.as_ref().err().map(ToString::to_string), user = ?user, "signed in");
    Ok([token.is_ok(), user.is_ok()])
}

async fn github(status: StatusCode, body: String) -> anyhow::Result<(Url, AbortOnDropHandle<()>)> {
    let headers = [("content-type", "application/json"), ("location", "/canary")];
    answering(status, headers, body).await
}
