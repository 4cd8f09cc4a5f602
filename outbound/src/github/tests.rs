//! Against real servers on loopback that stand for GitHub.

use std::collections::HashMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const SECRET: &str = "client_5e1f_canary";
const TOKEN: &str = "gho_3f9c1e7ab2d4_canary";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CODE: &str = "c0de_canary";
/// For tests in which nothing may wait: whoever does runs into the test's own bound.
const PATIENT: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(100);

/// Answers every request alike, and remembers what came.
struct Fake {
    url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
    _server: AbortOnDropHandle<()>,
}

struct Seen {
    target: String,
    headers: HeaderMap,
    body: String,
}

type Make = Box<dyn Fn() -> Response + Send + Sync>;
type Answering = Arc<(Arc<Mutex<Vec<Seen>>>, Make)>;

impl Fake {
    async fn with(make: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let make: Make = Box::new(make);
        let app = Router::new().fallback(answer).with_state(Arc::new((seen.clone(), make)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, _server: AbortOnDropHandle::new(server) }
    }

    async fn answering(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::with(move || response(status, kind, body.clone().into())).await
    }

    fn github(&self) -> GitHub {
        at(&self.url, PATIENT)
    }
}

async fn answer(State(state): State<Answering>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 64 * 1024).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let target = format!("{} {}", head.method, head.uri);
    state.0.lock().push(Seen { target, headers: head.headers, body });
    (state.1)()
}

fn response(status: u16, kind: &str, body: Body) -> Response {
    Response::builder().status(status).header("content-type", kind).body(body).unwrap()
}

fn at(url: &Url, total: Duration) -> GitHub {
    let settings = GitHubSettings {
        client_id: "Iv1.8a61f9b3a7aba766".to_owned(),
        client_secret: SecretString::from(SECRET),
        urls: GitHubUrls { web: url.clone(), api: url.join("/api/v3").unwrap() },
    };
    assert!(!format!("{settings:?}").contains("canary"));
    GitHub::with(&settings, total, total).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(VERIFIER.to_owned()).unwrap()
}

fn redirect() -> Url {
    "https://ledger.example/api/auth/github/callback".parse().unwrap()
}

async fn exchange(github: &GitHub) -> Result<SecretText, GitHubError> {
    let verifier = verifier();
    let redirect = redirect();
    // Handlers want futures that can move between threads.
    let asked: std::pin::Pin<Box<dyn Future<Output = _> + Send + '_>> =
        Box::pin(github.exchange(CODE, &verifier, &redirect));
    tokio::time::timeout(PATIENT / 2, asked).await.expect("an answer in time")
}

async fn user(github: &GitHub) -> Result<GitHubUser, GitHubError> {
    let token = SecretText::new(TOKEN.to_owned());
    tokio::time::timeout(PATIENT / 2, github.user(&token)).await.expect("an answer in time")
}

/// The kind of an error; with what it says, to look for secrets in.
fn kind(error: &GitHubError) -> &'static str {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("canary") && !shown.contains(VERIFIER), "{shown}");
    match error {
        GitHubError::Denied(_) => "denied",
        GitHubError::Away(Absence::TimedOut) => "timed out",
        GitHubError::Away(Absence::Failed(_)) => "failed",
        GitHubError::Away(Absence::Status(_)) => "away",
        GitHubError::Away(Absence::Busy) => "busy",
        GitHubError::Refused => "refused",
        GitHubError::Malformed => "malformed",
    }
}

fn granted() -> String {
    json!({ "access_token": TOKEN, "scope": "", "token_type": "bearer" }).to_string()
}

/// The challenge is the one of RFC 7636, appendix B.
#[tokio::test]
async fn the_page_is_asked_for_with_state_and_challenge() {
    for (web, page) in [
        ("https://github.com", "https://github.com/login/oauth/authorize"),
        ("https://ghe.example/git/", "https://ghe.example/git/login/oauth/authorize"),
    ] {
        let url = at(&web.parse().unwrap(), PATIENT).authorize_url(&redirect(), "st&te=1", &verifier());
        assert_eq!(url.as_str().split('?').next(), Some(page));
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        let expected = [
            ("response_type", "code"),
            ("client_id", "Iv1.8a61f9b3a7aba766"),
            ("state", "st&te=1"),
            ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
            ("code_challenge_method", "S256"),
            ("redirect_uri", redirect().as_str()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(query, HashMap::from(expected));
    }
}

#[tokio::test]
async fn a_code_becomes_a_token_and_a_token_a_user() {
    let fake = Fake::answering(200, "application/json; charset=utf-8", granted()).await;
    assert_eq!(exchange(&fake.github()).await.unwrap().expose(), TOKEN);
    let seen = fake.seen.lock().pop().unwrap();
    assert_eq!(seen.target, "POST /login/oauth/access_token");
    assert_eq!(seen.headers["accept"], "application/json");
    assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
    assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("usage-ledger/"));
    assert!(!seen.headers.contains_key("authorization"));
    let form: HashMap<_, _> = url::form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect();
    let expected = [
        ("grant_type", "authorization_code"),
        ("code", CODE),
        ("code_verifier", VERIFIER),
        ("client_id", "Iv1.8a61f9b3a7aba766"),
        ("client_secret", SECRET),
        ("redirect_uri", redirect().as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(form, HashMap::from(expected));

    let body = json!({ "login": "octocat", "id": 583_231, "email": null, "plan": {} }).to_string();
    let fake = Fake::answering(200, "application/json", body).await;
    let known = user(&fake.github()).await.unwrap();
    assert_eq!((known.id, known.login.as_str()), (583_231, "octocat"));
    assert_eq!(format!("{known:?}"), "GitHubUser { id: 583231, .. }");
    let seen = fake.seen.lock().pop().unwrap();
    assert_eq!(seen.target, "GET /api/v3/user");
    assert_eq!(seen.headers["accept"], "application/vnd.github+json");
    assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
    assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("usage-ledger/"));
}

#[tokio::test]
async fn a_token_is_not_given_by_every_answer() {
    let json = "application/json";
    let said = |error: &str, description: &str| {
        json!({ "error": error, "error_description": description }).to_string()
    };
    for (status, kind_of_body, body, expected) in [
        (200, json, said("bad_verification_code", "The code passed is incorrect or expired."), "refused"),
        (400, json, said("invalid_grant", "used"), "refused"),
        (200, json, said("incorrect_client_credentials", "no"), "denied"),
        (200, json, said("redirect_uri_mismatch", "no"), "denied"),
        (401, json, said("unauthorized", "no"), "denied"),
        // Even beside a token.
        (
            200,
            json,
            json!({ "error": "x", "access_token": TOKEN, "token_type": "bearer" }).to_string(),
            "denied",
        ),
        (200, json, said(&format!("{SECRET} is wrong"), "no"), "malformed"),
        (400, json, "{}".to_owned(), "refused"),
        (404, "text/html", "<html>not found</html>".to_owned(), "refused"),
        (422, json, "not JSON".to_owned(), "refused"),
        (429, json, said("slow_down", "no"), "away"),
        (500, json, said("server_error", "no"), "away"),
        (502, "text/html", "<html>unicorn</html>".to_owned(), "away"),
        (503, json, granted(), "away"),
        (200, "text/html", "<html>please sign in</html>".to_owned(), "malformed"),
        (200, "text/html", granted(), "malformed"),
        (
            200,
            "application/x-www-form-urlencoded",
            format!("access_token={TOKEN}&token_type=bearer"),
            "malformed",
        ),
        (200, json, String::new(), "malformed"),
        (200, json, "{}".to_owned(), "malformed"),
        (200, json, "[]".to_owned(), "malformed"),
        (200, json, json!({ "access_token": TOKEN }).to_string(), "malformed"),
        (200, json, json!({ "access_token": TOKEN, "token_type": "mac" }).to_string(), "malformed"),
        (200, json, json!({ "access_token": "", "token_type": "bearer" }).to_string(), "malformed"),
        (200, json, json!({ "access_token": "a\r\nb: c", "token_type": "bearer" }).to_string(), "malformed"),
        (200, json, json!({ "access_token": 7, "token_type": "bearer" }).to_string(), "malformed"),
        (201, json, granted(), "malformed"),
        (204, json, String::new(), "malformed"),
    ] {
        let fake = Fake::answering(status, kind_of_body, body.clone()).await;
        let error = exchange(&fake.github()).await.err().expect(&body);
        assert_eq!(kind(&error), expected, "{status} {body}");
        assert_eq!(fake.seen.lock().len(), 1);
    }
}

#[tokio::test]
async fn a_user_is_not_in_every_answer() {
    for (status, body, expected) in [
        (401, r#"{"message":"Bad credentials"}"#.to_owned(), "refused"),
        (403, "{}".to_owned(), "refused"),
        (404, "{}".to_owned(), "refused"),
        (429, "{}".to_owned(), "away"),
        (500, "{}".to_owned(), "away"),
        (200, "<html>".to_owned(), "malformed"),
        (200, "{}".to_owned(), "malformed"),
        (200, json!({ "id": 7 }).to_string(), "malformed"),
        (200, json!({ "login": "octocat" }).to_string(), "malformed"),
        (200, json!({ "login": "octocat", "id": 0 }).to_string(), "malformed"),
        (200, json!({ "login": "octocat", "id": -1 }).to_string(), "malformed"),
        (200, json!({ "login": "octocat", "id": "7" }).to_string(), "malformed"),
        (200, json!({ "login": "octocat", "id": 7.5 }).to_string(), "malformed"),
        (200, json!({ "login": "", "id": 7 }).to_string(), "malformed"),
        (200, json!({ "login": "octo\ncat", "id": 7 }).to_string(), "malformed"),
        (200, json!({ "login": "o".repeat(256), "id": 7 }).to_string(), "malformed"),
        (200, r#"{"login":"a","id":1,"id":2}"#.to_owned(), "malformed"),
    ] {
        let fake = Fake::answering(status, "application/json", body.clone()).await;
        let error = user(&fake.github()).await.expect_err(&body);
        assert_eq!(kind(&error), expected, "{status} {body}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let other = Fake::answering(200, "application/json", granted()).await;
    for status in [301, 302, 303, 307, 308] {
        let target = other.url.to_string();
        let fake = Fake::with(move || {
            Response::builder().status(status).header("location", &target).body(Body::empty()).unwrap()
        })
        .await;
        assert_eq!(kind(&exchange(&fake.github()).await.err().unwrap()), "malformed");
        assert_eq!(kind(&user(&fake.github()).await.unwrap_err()), "malformed");
    }
    assert!(other.seen.lock().is_empty());
}

#[tokio::test]
async fn a_long_answer_is_not_read_to_its_end() {
    for body in [Bytes::from(vec![b' '; 10 * 1024 * 1024]), Bytes::from(vec![b' '; 64 * 1024 + 1])] {
        let fake = Fake::answering(200, "application/json", body).await;
        assert_eq!(kind(&exchange(&fake.github()).await.err().unwrap()), "malformed");
        assert_eq!(kind(&user(&fake.github()).await.unwrap_err()), "malformed");
    }
    let endless = Fake::with(|| {
        let blanks = stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; 4096])));
        response(200, "application/json", Body::from_stream(blanks))
    })
    .await;
    assert_eq!(kind(&exchange(&endless.github()).await.err().unwrap()), "malformed");
}

#[tokio::test]
async fn who_is_silent_or_slow_is_left() {
    // Takes connections, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    assert_eq!(kind(&exchange(&at(&silent, SHORT)).await.err().unwrap()), "timed out");
    assert_eq!(kind(&user(&at(&silent, SHORT)).await.unwrap_err()), "timed out");
    // Begins an answer that does not end.
    let slow = Fake::with(|| {
        let begun = stream::once(async { Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{")) });
        response(
            200,
            "application/json",
            Body::from_stream(futures_util::StreamExt::chain(begun, stream::pending())),
        )
    })
    .await;
    assert_eq!(kind(&exchange(&at(&slow.url, SHORT)).await.err().unwrap()), "timed out");
    drop(listener);
    assert_eq!(kind(&exchange(&at(&silent, PATIENT)).await.err().unwrap()), "failed");
    assert_eq!(kind(&user(&at(&silent, PATIENT)).await.unwrap_err()), "failed");
}

#[tokio::test]
async fn no_more_ask_at_once_than_may() {
    let fake = Fake::answering(200, "application/json", granted()).await;
    let github = fake.github();
    let slots = github.0.slots.try_acquire_many(u32::try_from(REQUESTS_AT_ONCE).unwrap()).unwrap();
    assert_eq!(kind(&exchange(&github).await.err().unwrap()), "busy");
    assert_eq!(kind(&user(&github).await.unwrap_err()), "busy");
    drop(slots);
    assert!(exchange(&github).await.is_ok());
}

#[tokio::test]
async fn what_can_be_no_code_is_not_asked_about() {
    let fake = Fake::answering(200, "application/json", granted()).await;
    for code in [String::new(), "c".repeat(CODE_BYTES_MAX + 1)] {
        let error = fake.github().exchange(&code, &verifier(), &redirect()).await.err().unwrap();
        assert_eq!(kind(&error), "refused");
    }
    assert!(fake.seen.lock().is_empty());
}

#[tokio::test]
async fn what_github_says_is_passed_on_cut_and_without_secrets() {
    let long = format!("no\r\n{}", "x".repeat(10_000));
    let body = json!({ "error": "access_denied", "error_description": long }).to_string();
    let fake = Fake::answering(200, "application/json", body).await;
    let Err(GitHubError::Denied(denial)) = exchange(&fake.github()).await else { panic!("no denial") };
    assert_eq!(denial, Denial::new("access_denied", Some(&format!("no{}", "x".repeat(198)))));
    assert!(denial.to_string().starts_with("access_denied: noxxx"));
    for secret in [SECRET, CODE, VERIFIER] {
        let body = json!({ "error": "nope", "error_description": format!("got {secret}") }).to_string();
        let fake = Fake::answering(200, "application/json", body).await;
        let Err(GitHubError::Denied(denial)) = exchange(&fake.github()).await else { panic!("no denial") };
        assert_eq!(denial, Denial::new("nope", None));
    }
}

#[test]
fn a_verifier_is_of_the_form_that_its_rfc_gives() {
    for good in [VERIFIER.to_owned(), "~".repeat(128), "a.b_c-d~".repeat(6)] {
        assert!(Verifier::new(good).is_ok());
    }
    for bad in [String::new(), "a".repeat(42), "a".repeat(129), format!("{VERIFIER}="), "é".repeat(30)] {
        assert_eq!(Verifier::new(bad).err(), Some(NotAVerifier));
    }
}

#[test]
fn addresses_are_read_from_variables() {
    let read =
        |web: &'static str| GitHubUrls::read(&move |name| (name == "GITHUB_URL").then(|| web.to_owned()));
    assert_eq!(read("").unwrap(), GitHubUrls::default());
    assert_eq!(read("http://127.0.0.1:4000").unwrap().web.as_str(), "http://127.0.0.1:4000/");
    let error = read("http://github.com").unwrap_err().to_string();
    assert!(error.starts_with("GITHUB_URL cannot be used: http sends"), "{error}");
}
