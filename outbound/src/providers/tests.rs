//! Against real servers on loopback that stand for the providers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::*;

const TOKEN: &str = "tok_3f9c1e7ab2d4_canary";
/// For tests in which nothing may wait: whoever does runs into the test's own bound.
const PATIENT: Bounds = Bounds { connect: BOUND, total: BOUND, at_once: 4 };
const BOUND: Duration = Duration::from_mins(1);

/// A provider: answers every request alike, and remembers what came.
struct Fake {
    url: Url,
    requests: Arc<Mutex<Vec<Seen>>>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Seen {
    target: String,
    /// Sorted by name.
    headers: Vec<(String, String)>,
}

struct Answers {
    requests: Arc<Mutex<Vec<Seen>>>,
    make: Box<dyn Fn() -> Response + Send + Sync>,
}

impl Fake {
    async fn with(make: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Answers { requests: requests.clone(), make: Box::new(make) });
        let app = Router::new().fallback(answer).with_state(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = loopback(listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, requests, _server: AbortOnDropHandle::new(server) }
    }

    async fn answering(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Self {
        let (headers, body) = (owned(headers), body.into());
        Self::with(move || {
            let response = Response::builder().status(status);
            let response =
                headers.iter().fold(response, |response, (name, value)| response.header(*name, value));
            response.body(Body::from(body.clone())).unwrap()
        })
        .await
    }

    async fn test(&self, kind: TokenKind) -> TokenTest {
        test(&self.url, kind).await
    }
}

async fn answer(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    let headers = request.headers().iter();
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    headers.sort();
    let target = format!("{} {}", request.method(), request.uri());
    answers.requests.lock().push(Seen { target, headers });
    (answers.make)()
}

fn owned(headers: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn loopback(address: SocketAddr) -> Url {
    format!("http://{address}").parse().unwrap()
}

/// All providers there.
fn at(url: &Url, bounds: Bounds) -> Providers {
    let url = || url.clone();
    let urls = ProviderUrls { github: url(), openai: url(), anthropic: url(), gemini: url() };
    Providers::with(urls, bounds).unwrap()
}

async fn test(url: &Url, kind: TokenKind) -> TokenTest {
    ask(&at(url, PATIENT), kind).await
}

/// Fails when it takes a good deal of the bounds of [`PATIENT`].
async fn ask(providers: &Providers, kind: TokenKind) -> TokenTest {
    let token = token();
    tokio::time::timeout(BOUND / 2, providers.test(kind, &token)).await.expect("an answer in time")
}

fn token() -> SecretText {
    SecretText::new(TOKEN.to_owned())
}

fn valid() -> TokenTest {
    TokenTest::Valid { scopes: None, expires_at: None }
}

fn invalid() -> TokenTest {
    TokenTest::Invalid
}

fn unexpected() -> TokenTest {
    TokenTest::Unknown(UnknownReason::UnexpectedStatus)
}

#[tokio::test]
async fn a_provider_gets_its_own_headers_and_no_others() {
    let bearer = format!("Bearer {TOKEN}");
    let agent = concat!("usage-ledger/", env!("CARGO_PKG_VERSION"));
    let json = "application/json";
    let cases = [
        (
            TokenKind::Github,
            "/user",
            vec![("accept", "application/vnd.github+json"), ("authorization", &bearer)],
        ),
        (TokenKind::Openai, "/v1/models", vec![("accept", json), ("authorization", &bearer)]),
        (
            TokenKind::Anthropic,
            "/v1/models",
            vec![("accept", json), ("anthropic-version", "2023-06-01"), ("x-api-key", TOKEN)],
        ),
        (TokenKind::Gemini, "/v1/models", vec![("accept", json), ("x-goog-api-key", TOKEN)]),
    ];
    for (kind, path, mut expected) in cases {
        let fake = Fake::answering(200, &[], "{}").await;
        let base = fake.url.join("/a%20proxy/b/").unwrap();
        assert_eq!(test(&base, kind).await, valid(), "{kind}");
        let requests = fake.requests.lock();
        let [request] = requests.as_slice() else { panic!("{kind}: {requests:?}") };
        assert_eq!(request.target, format!("GET /a%20proxy/b{path}"), "{kind}");
        let host = fake.url.authority();
        expected.extend([("host", host), ("user-agent", agent)]);
        expected.sort_unstable();
        assert_eq!(request.headers, owned_pairs(&expected), "{kind}");
    }
}

fn owned_pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn some_answers_mean_the_same_of_every_provider() {
    for kind in TokenKind::ALL {
        let cases = [
            (200, "not even JSON", valid()),
            (401, r#"{"error": {"message": "no"}, "message": "Bad credentials"}"#, invalid()),
            (401, "", invalid()),
            (400, "{}", unexpected()),
            (403, "<html>forbidden</html>", unexpected()),
            (403, r#"{"error": {"type": "permission_error"}}"#, unexpected()),
            (404, "{}", unexpected()),
            (429, r#"{"error": "slow down"}"#, TokenTest::Unknown(UnknownReason::RateLimited)),
            (500, TOKEN, unexpected()),
            (503, "", unexpected()),
        ];
        for (status, body, expected) in cases {
            let fake = Fake::answering(status, &[], body).await;
            assert_eq!(fake.test(kind).await, expected, "{kind} {status} {body}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_refuses_is_understood() {
    let gemini = |reason: &str, message: &str| {
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason});
        let other = json!({"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "message": message});
        json!({"error": {"message": message, "details": [other, info]}})
    };
    let openai = |message: &str, code: Value| json!({"error": {"message": message, "code": code}});
    let scopes = "You have insufficient permissions for this operation. Missing scopes: api.model.read.";
    let github = |message: &str| json!({"message": message, "documentation_url": "https://docs.github.com/"});
    let limited = TokenTest::Unknown(UnknownReason::RateLimited);
    let cases = [
        (TokenKind::Gemini, 400, gemini("API_KEY_INVALID", "API key not valid."), invalid()),
        (TokenKind::Gemini, 403, gemini("API_KEY_INVALID", "API key expired."), invalid()),
        (TokenKind::Gemini, 403, gemini("", "Your API key was reported as leaked."), invalid()),
        (TokenKind::Gemini, 403, gemini("API_KEY_SERVICE_BLOCKED", "blocked"), unexpected()),
        (TokenKind::Gemini, 403, gemini("SERVICE_DISABLED", "API_KEY_INVALID"), unexpected()),
        (TokenKind::Gemini, 400, gemini("", "User location is not supported."), unexpected()),
        (TokenKind::Openai, 403, json!({"error": scopes}), valid()),
        (TokenKind::Openai, 403, openai(scopes, Value::Null), valid()),
        (TokenKind::Openai, 401, openai(scopes, Value::Null), valid()),
        (TokenKind::Openai, 401, openai("Incorrect API key provided", "invalid_api_key".into()), invalid()),
        (TokenKind::Openai, 401, openai("Your IP", "ip_not_authorized".into()), unexpected()),
        (
            TokenKind::Openai,
            403,
            openai("Country", "unsupported_country_region_territory".into()),
            unexpected(),
        ),
        (TokenKind::Github, 403, github("Resource not accessible by integration"), valid()),
        (TokenKind::Github, 403, github("Resource not accessible by personal access token"), valid()),
        (TokenKind::Github, 403, github("Sorry. Your account was suspended."), unexpected()),
        (TokenKind::Github, 403, github("You have exceeded a secondary rate limit."), limited),
        (TokenKind::Anthropic, 403, json!({"error": {"type": "forbidden"}}), unexpected()),
        // What one provider says means nothing of another's.
        (TokenKind::Anthropic, 400, gemini("API_KEY_INVALID", "API key not valid."), unexpected()),
        (TokenKind::Github, 403, openai(scopes, Value::Null), unexpected()),
    ];
    for (kind, status, body, expected) in cases {
        let fake = Fake::answering(status, &[], body.to_string()).await;
        assert_eq!(fake.test(kind).await, expected, "{kind} {status} {body}");
    }
}

#[tokio::test]
async fn only_github_describes_a_token() {
    let described = [
        ("x-oauth-scopes", "repo, admin:public_key"),
        ("github-authentication-token-expiration", "2026-12-24 10:00:00 UTC"),
    ];
    let fake = Fake::answering(200, &described, "{}").await;
    let expected = TokenTest::Valid {
        scopes: Some(vec!["repo".to_owned(), "admin:public_key".to_owned()]),
        expires_at: Some("2026-12-24T10:00:00Z".parse().unwrap()),
    };
    assert_eq!(fake.test(TokenKind::Github).await, expected);
    assert_eq!(fake.test(TokenKind::Openai).await, valid());
    let fake = Fake::answering(401, &described, "{}").await;
    assert_eq!(fake.test(TokenKind::Github).await, invalid());
    let fake = Fake::answering(403, &[("x-ratelimit-remaining", "0")], "{}").await;
    assert_eq!(fake.test(TokenKind::Github).await, TokenTest::Unknown(UnknownReason::RateLimited));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Fake::answering(200, &[], "{}").await;
    for status in [301, 302, 303, 307, 308] {
        let fake = Fake::answering(status, &[("location", target.url.as_str())], "").await;
        for kind in TokenKind::ALL {
            assert_eq!(fake.test(kind).await, unexpected(), "{kind} {status}");
        }
        assert_eq!(fake.requests.lock().len(), TokenKind::ALL.len());
    }
    assert!(target.requests.lock().is_empty(), "the token went to {:?}", target.requests.lock());
}

#[tokio::test]
async fn a_body_is_read_as_far_as_it_helps() {
    let taken = Arc::new(AtomicUsize::new(0));
    let endless = |status: StatusCode| {
        let taken = taken.clone();
        Fake::with(move || {
            let taken = taken.clone();
            let start =
                Bytes::from_static(br#"{"error": {"details": [{"reason": "API_KEY_INVALID"}]}, "x": ""#);
            let chunks = stream::unfold(start, move |chunk| {
                taken.fetch_add(chunk.len(), Ordering::Relaxed);
                let next = Bytes::from(vec![b'x'; 64 * 1024]);
                async move { Some((Ok::<_, std::io::Error>(chunk), next)) }
            });
            Response::builder().status(status).body(Body::from_stream(chunks)).unwrap()
        })
    };
    assert_eq!(endless(StatusCode::OK).await.test(TokenKind::Github).await, valid());
    assert_eq!(endless(StatusCode::BAD_REQUEST).await.test(TokenKind::Gemini).await, unexpected());
    assert_eq!(endless(StatusCode::UNAUTHORIZED).await.test(TokenKind::Openai).await, invalid());
    // The rest is what the kernel's buffers take before the connection is closed.
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 64 << 20, "{taken} bytes were sent");
}

#[tokio::test]
async fn whoever_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = loopback(silent.local_addr().unwrap());
    let timed_out = TokenTest::Unknown(UnknownReason::TimedOut);
    let providers = at(&url, Bounds { total: Duration::from_millis(50), ..PATIENT });
    assert_eq!(ask(&providers, TokenKind::Github).await, timed_out);

    // TCP stands, TLS does not come about.
    let https = url.as_str().replace("http:", "https:").parse().unwrap();
    let providers = at(&https, Bounds { connect: Duration::from_millis(50), ..PATIENT });
    assert_eq!(ask(&providers, TokenKind::Gemini).await, timed_out);

    // A status, then nothing.
    let stalled = Fake::with(|| {
        let nothing = stream::pending::<Result<Bytes, std::io::Error>>();
        Response::builder().status(400).body(Body::from_stream(nothing)).unwrap()
    })
    .await;
    let providers = at(&stalled.url, Bounds { total: Duration::from_millis(200), ..PATIENT });
    assert_eq!(ask(&providers, TokenKind::Gemini).await, timed_out);
}

#[tokio::test]
async fn no_connection_and_no_http_is_unreachable() {
    let unreachable = TokenTest::Unknown(UnknownReason::Unreachable);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = loopback(listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(test(&closed, TokenKind::Openai).await, unreachable);

    for answer in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\nX-Oauth-Scopes: re"] {
        let (url, _server) = raw(answer.as_bytes().to_vec()).await;
        assert_eq!(test(&url, TokenKind::Github).await, unreachable, "{answer:?}");
    }
    // Complete, and what hyper would take by itself.
    let long_head = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(200 * 1024));
    let (url, _server) = raw(long_head.into_bytes()).await;
    assert_eq!(test(&url, TokenKind::Github).await, unreachable, "a long head");

    let plain = Fake::answering(200, &[], "{}").await;
    let https = plain.url.as_str().replace("http:", "https:").parse().unwrap();
    assert_eq!(test(&https, TokenKind::Github).await, unreachable, "not HTTPS");
    assert!(plain.requests.lock().is_empty());
}

/// Sends these bytes to whoever sends something, then closes.
async fn raw(answer: Vec<u8>) -> (Url, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = loopback(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let mut connection: TcpStream = listener.accept().await.unwrap().0;
            // One that is closed with the request unread is reset, and the answer lost.
            let mut request = [0; 4096];
            assert_ne!(connection.read(&mut request).await.unwrap(), 0);
            // Fails when the other side has seen enough.
            let _ = connection.write_all(&answer).await;
        }
    });
    (url, AbortOnDropHandle::new(server))
}

#[tokio::test]
async fn what_no_header_can_carry_is_not_sent() {
    let fake = Fake::answering(200, &[], "{}").await;
    let providers = at(&fake.url, PATIENT);
    for kind in TokenKind::ALL {
        for text in [
            "",
            "ghp_a\nb",
            "ghp_a\r\nX-Evil: 1",
            "ghp_a\0",
            "ghp_ä",
            "ghp_a b",
            " ghp_a",
            "ghp_a\t",
            "\u{7f}",
        ] {
            let test = providers.test(kind, &SecretText::new(text.to_owned())).await;
            assert_eq!(test, TokenTest::Unknown(UnknownReason::NotAHeaderValue), "{kind} {text:?}");
        }
    }
    assert!(fake.requests.lock().is_empty());
}

#[tokio::test]
async fn tests_at_once_are_bounded() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = loopback(silent.local_addr().unwrap());
    let providers = at(&url, Bounds { at_once: 1, ..PATIENT });
    let clone = providers.clone();
    let first = tokio::spawn(async move { clone.test(TokenKind::Openai, &token()).await });
    let connection = silent.accept().await.unwrap();
    let busy = TokenTest::Unknown(UnknownReason::Busy);
    assert_eq!(ask(&providers, TokenKind::Github).await, busy);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    drop((connection, silent));
    let after = ask(&providers, TokenKind::Github).await;
    assert_eq!(
        after,
        TokenTest::Unknown(UnknownReason::Unreachable),
        "a test that was cancelled left its slot"
    );
}
