//! What is logged while providers are asked. A program of its own: what other tests do at the same time decides what a
//! subscriber of one thread gets to see.

mod lines;

use axum::http::StatusCode;
use outbound::providers::{ProviderUrls, Providers, TokenTest};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use vault::{SecretText, TokenKind};

use crate::lines::{Lines, answering};

const TOKEN: &str = "tok_3f9c1e7ab2d4_canary";

#[tokio::test]
async fn no_line_holds_the_token_or_an_answer() -> anyhow::Result<()> {
    let lines = Lines::default();
    let _guard = lines.listen();
    for kind in TokenKind::ALL {
        for status in [200, 400, 401, 403, 429, 500] {
            let (url, _server) = provider(StatusCode::from_u16(status)?).await?;
            let test = ask(url, kind).await?;
            assert_eq!(matches!(test, TokenTest::Valid { .. }), status == 200, "{kind} {status}");
            assert_eq!(test == TokenTest::Invalid, status == 401, "{kind} {status}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let test = ask(format!("http://{closed}").parse()?, kind).await?;
        assert!(matches!(test, TokenTest::Unknown(_)), "{test:?}");
    }
    let text = lines.text()?;
    for said in ["a provider cannot be asked", "a provider does not say", "hyper_util"] {
        assert!(text.contains(said), "{said} is not in: {text}");
    }
    for kept in [TOKEN, "canary", "of the upstream"] {
        assert!(!text.contains(kept), "{kept} is in: {text}");
    }
    Ok(())
}

async fn ask(url: Url, kind: TokenKind) -> anyhow::Result<TokenTest> {
    let url = || url.clone();
    let urls = ProviderUrls { github: url(), openai: url(), anthropic: url(), gemini: url() };
    Ok(Providers::new(urls)?.test(kind, &SecretText::new(TOKEN.to_owned())).await)
}

/// Quotes the token, as some providers do.
async fn provider(status: StatusCode) -> anyhow::Result<(Url, AbortOnDropHandle<()>)> {
    let body = format!(r#"{{"error": {{"message": "{TOKEN} of the upstream"}}}}"#);
    let headers = [("x-oauth-scopes", "of the upstream")];
    answering(status, headers, body).await
}
