//! Signing in with GitHub: OAuth's web flow (RFC 6749 §4.1) with PKCE (RFC 7636), which GitHub takes with S256 only.
//!
//! Nothing private is asked for: no scope, so that the token says who its user is and no more. The token lives as long
//! as it takes to ask that. Neither it nor the client's secret is shown or logged, and what GitHub says of an error is
//! passed on without them.

mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use oauth2::basic::{BasicClient, BasicTokenType};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet,
    HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;
use vault::SecretText;

use crate::base_url::{UrlRefused, base, below, fixed};
use crate::client::{Answer, Http, Reading};

pub use error::{Absence, Denial, GitHubError, GitHubSetupError, NotAVerifier};

/// Until a connection stands, name resolution and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until an answer is read, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Sign-ins that ask GitHub at once in this process.
const REQUESTS_AT_ONCE: usize = 32;
/// GitHub says why not with status 200, others with 400.
const TOKEN: Reading = Reading { statuses: &[200, 400, 401, 403, 422], bytes_max: 64 * 1024 };
const USER: Reading = Reading { statuses: &[200], bytes_max: 64 * 1024 };
/// Most bytes of a code, whose end anybody can write into the address of our page. GitHub's have 20.
const CODE_BYTES_MAX: usize = 512;
/// Most bytes of a login. GitHub's have 39, those of companies a few more.
const LOGIN_BYTES_MAX: usize = 255;
/// Lengths of a verifier (RFC 7636 §4.1).
const VERIFIER_BYTES: std::ops::RangeInclusive<usize> = 43..=128;

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// What an operator says of the application that is registered with GitHub.
#[derive(Clone, Debug)]
pub struct GitHubSettings {
    /// `GITHUB_CLIENT_ID`.
    pub client_id: String,
    /// `GITHUB_CLIENT_SECRET`.
    pub client_secret: SecretString,
    /// Where GitHub is.
    pub urls: GitHubUrls,
}

/// Addresses of GitHub, or of a GitHub Enterprise Server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubUrls {
    /// `GITHUB_URL`, by default `https://github.com`: the pages on which people agree, and where a code is redeemed.
    pub web: Url,
    /// `GITHUB_API_URL`, by default `https://api.github.com`.
    pub api: Url,
}

impl GitHubUrls {
    /// Reads the variables; `get` answers a variable's value, if it is set. By plain http they are taken where GitHub's
    /// stand-in is near only, as those of providers are.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, UrlRefused> {
        let defaults = Self::default();
        Ok(Self {
            web: base(get, "GITHUB_URL", defaults.web)?,
            api: base(get, "GITHUB_API_URL", defaults.api)?,
        })
    }
}

impl Default for GitHubUrls {
    fn default() -> Self {
        Self { web: fixed("https://github.com"), api: fixed("https://api.github.com") }
    }
}

/// Who a person is at GitHub.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct GitHubUser {
    /// Number of the account, for ever.
    pub id: u64,
    /// Name of the account, which its user may change, and another one take.
    pub login: String,
}

/// Without the login, which is a person's.
impl fmt::Debug for GitHubUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHubUser").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The secret that who begins a sign-in keeps, and shows when the code is redeemed (RFC 7636).
pub struct Verifier(SecretText);

impl Verifier {
    /// A verifier of 43 to 128 letters, digits, `-`, `.`, `_` and `~`.
    pub fn new(text: String) -> Result<Self, NotAVerifier> {
        let text = SecretText::new(text);
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if VERIFIER_BYTES.contains(&text.len()) && text.expose().bytes().all(is_good) {
            return Ok(Self(text));
        }
        Err(NotAVerifier)
    }

    fn pkce(&self) -> PkceCodeVerifier {
        PkceCodeVerifier::new(self.0.expose().to_owned())
    }
}

/// Asks GitHub who somebody is. Cheap to clone; clones share one bound on what runs at once.
#[derive(Clone)]
pub struct GitHub(Arc<Asking>);

struct Asking {
    client: Client,
    secret: SecretString,
    user: Uri,
    http: Http,
    slots: Semaphore,
}

impl GitHub {
    /// Connects to nobody yet.
    pub fn new(settings: &GitHubSettings) -> Result<Self, GitHubSetupError> {
        Self::with(settings, CONNECT_TIMEOUT, TIMEOUT)
    }

    fn with(settings: &GitHubSettings, connect: Duration, total: Duration) -> Result<Self, GitHubSetupError> {
        let of = |base: &Url, path: &[&str]| below(base, path).ok_or(GitHubSetupError::Url);
        let GitHubUrls { web, api } = &settings.urls;
        let secret = settings.client_secret.clone();
        // In the body, as GitHub documents it. The library's other way is HTTP's basic authentication.
        let client = BasicClient::new(ClientId::new(settings.client_id.clone()))
            .set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_auth_uri(AuthUrl::from_url(of(web, &["login", "oauth", "authorize"])?))
            .set_token_uri(TokenUrl::from_url(of(web, &["login", "oauth", "access_token"])?));
        let user = of(api, &["user"])?.as_str().parse().map_err(|_| GitHubSetupError::Url)?;
        let http = Http::new(connect, total).map_err(GitHubSetupError::Tls)?;
        Ok(Self(Arc::new(Asking { client, secret, user, http, slots: Semaphore::new(REQUESTS_AT_ONCE) })))
    }

    /// The page on which a person lets us know who they are. GitHub sends them on to `redirect`, with this `state`.
    pub fn authorize_url(&self, redirect: &Url, state: &str, verifier: &Verifier) -> Url {
        let state = CsrfToken::new(state.to_owned());
        let (url, _) = self
            .0
            .client
            .authorize_url(move || state)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier.pkce()))
            .set_redirect_uri(std::borrow::Cow::Owned(RedirectUrl::from_url(redirect.clone())))
            .url();
        url
    }

    /// Redeems the code that came with the person, for a token. `redirect` and `verifier` are those of the beginning.
    /// Answers within 10 s, whatever GitHub does.
    pub async fn exchange(
        &self,
        code: &str,
        verifier: &Verifier,
        redirect: &Url,
    ) -> Result<SecretText, GitHubError> {
        if code.is_empty() || code.len() > CODE_BYTES_MAX {
            return Err(GitHubError::Refused);
        }
        let _slot = self.0.slots.try_acquire().map_err(|_| GitHubError::Away(Absence::Busy))?;
        // Owned, for the compiler finds no future that can move between threads in a closure that borrows.
        let github = self.clone();
        let secrets = [code, verifier.0.expose(), self.0.secret.expose_secret()];
        let secrets = Arc::new(secrets.map(|secret| SecretText::new(secret.to_owned())));
        let send = move |request| github.clone().redeem(request, secrets.clone());
        let answer = self
            .0
            .client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(verifier.pkce())
            .set_redirect_uri(std::borrow::Cow::Owned(RedirectUrl::from_url(redirect.clone())))
            .request_async(&send)
            .await
            .map_err(|error| match error {
                RequestTokenError::Request(error) => error,
                // These hold the answer, which may hold a token.
                RequestTokenError::ServerResponse(_)
                | RequestTokenError::Parse(..)
                | RequestTokenError::Other(_) => GitHubError::Malformed,
            })?;
        let is_bearer = *answer.token_type() == BasicTokenType::Bearer;
        let token = answer.access_token().secret();
        let is_sent = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if is_bearer && is_sent { Ok(SecretText::new(token.clone())) } else { Err(GitHubError::Malformed) }
    }

    /// Who the token is of. Answers within 10 s, whatever GitHub does.
    pub async fn user(&self, token: &SecretText) -> Result<GitHubUser, GitHubError> {
        const VERSION: HeaderName = HeaderName::from_static("x-github-api-version");
        let bearer = format!("Bearer {}", token.expose());
        let mut bearer = HeaderValue::try_from(bearer).map_err(|_| GitHubError::Malformed)?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, bearer),
            (header::ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
            (VERSION, HeaderValue::from_static("2022-11-28")),
        ]);
        let _slot = self.0.slots.try_acquire().map_err(|_| GitHubError::Away(Absence::Busy))?;
        let answer = self.0.http.get(self.0.user.clone(), headers, USER).await.map_err(GitHubError::away)?;
        let body = read(answer)?;
        let user: GitHubUser = serde_json::from_slice(&body).map_err(|_| GitHubError::Malformed)?;
        let is_name = (1..=LOGIN_BYTES_MAX).contains(&user.login.len())
            && user.login.bytes().all(|byte| byte.is_ascii_graphic());
        if user.id > 0 && is_name { Ok(user) } else { Err(GitHubError::Malformed) }
    }

    /// Sends what the library asks for, and gives it answers that hold a token alone.
    async fn redeem(
        self,
        request: HttpRequest,
        secrets: Arc<[SecretText; 3]>,
    ) -> Result<HttpResponse, GitHubError> {
        let (head, body) = request.into_parts();
        let mut answer = self
            .0
            .http
            .post(head.uri, head.headers, Bytes::from(body), TOKEN)
            .await
            .map_err(GitHubError::away)?;
        let said = answer.body.as_deref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
        if let Some(error) = said.as_ref().and_then(|said| said.get("error")?.as_str())
            && TOKEN.statuses.contains(&answer.status.as_u16())
        {
            let description = said.as_ref().and_then(|said| said.get("error_description")?.as_str());
            return Err(GitHubError::said(error, description, &*secrets));
        }
        let kind = answer.headers.remove(header::CONTENT_TYPE);
        let mut response = HttpResponse::new(read(answer)?.into());
        response.headers_mut().extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
        Ok(response)
    }
}

/// The body of an answer that is one.
fn read(answer: Answer) -> Result<Bytes, GitHubError> {
    match answer.status {
        StatusCode::OK => answer.body.ok_or(GitHubError::Malformed),
        StatusCode::TOO_MANY_REQUESTS => Err(GitHubError::Away(Absence::Status(answer.status))),
        status if status.is_server_error() => Err(GitHubError::Away(Absence::Status(status))),
        status if status.is_client_error() => Err(GitHubError::Refused),
        // A redirect, too: who is asked is what the operator wrote.
        _ => Err(GitHubError::Malformed),
    }
}
