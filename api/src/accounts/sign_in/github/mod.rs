//! Signing in with GitHub: `GET /api/auth/github`, `POST /api/auth/github`, `DELETE /api/auth/github`, `GET
//! /api/auth/github/callback`.
//!
//! The browser that begins gets a secret in a cookie, of which the verifier of PKCE is made; GitHub gets a state, which
//! is good once, and only with that cookie. Whose account it is, GitHub's number of the user says, never an address.

mod next;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use chrono::TimeDelta;
use credentials::Secret;
use events::AccountAction;
use ledger::UserId;
use outbound::github::{Denial, GitHubError, GitHubUser, Verifier};
use serde::{Deserialize, Serialize};
use store::identity::credential_changes::Changed;
use store::identity::oauth_attempts::{self, Attempt};
use store::identity::passwords;
use store::identity::people::{self, Identity, IdentityKind};
use store::identity::sessions::Method;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::accounts::by::By;
use crate::accounts::sign_in::error::SignInError;
use crate::accounts::sign_in::github_way::GitHubSignIn;
use crate::accounts::sign_in::parts::{SignIn, hold, new_secret};
use crate::auth::SignedIn;
use crate::config::Registration;
use crate::http::client::party;
use crate::http::extract::Query;
use crate::http::problem::{Chain, Problem, ProblemBody};
use crate::http::site::Cookie;
use next::place;

/// Time that somebody has at GitHub.
const LASTS: Duration = Duration::from_mins(10);
/// Label of the verifier that follows from the browser's secret.
const PKCE: &str = "usage-ledger pkce verifier";

/// Where to go on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NextQuery {
    /// Path on this site at which to go on; `/account` unless given.
    next: Option<String>,
}

/// Where to send the browser.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GitHubLink)]
pub(super) struct LinkBody {
    /// Address at GitHub to which the page leads its reader.
    authorize_url: String,
}

/// What GitHub sends back.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CallbackQuery {
    /// The state that it got.
    state: Option<String>,
    /// A code for the user's name.
    code: Option<String>,
    /// Its word for what went wrong.
    error: Option<String>,
    /// Its sentence for it.
    error_description: Option<String>,
}

/// Signs in with GitHub
///
/// Leads the browser to GitHub, which sends it back.
#[utoipa::path(
    get, path = "/api/auth/github", tag = "accounts",
    params(NextQuery),
    responses(
        (status = 303, description = "To GitHub", headers(("Location" = String, description = "GitHub's page"))),
        (status = 404, description = "GitHub is no way in here", body = ProblemBody),
        (status = 429, description = "Too many such requests from this address", body = ProblemBody),
    ),
    security(())
)]
pub(super) async fn begin(
    State(sign_in): State<SignIn>,
    Query(query): Query<NextQuery>,
    parts: RequestParts,
) -> Result<Response, Problem> {
    sign_in.0.auth.must_be_secure(&parts)?;
    sign_in.0.starts.check(party(sign_in.0.auth.address(&parts)))?;
    let (url, cookie) = sign_in.ask_github(None, &place(query.next.as_deref())).await?;
    Ok(see_other(&url, [cookie]))
}

/// Links the caller's account to one of GitHub
///
/// From then on its user may sign in with GitHub. Answers where to send the browser.
#[utoipa::path(
    post, path = "/api/auth/github", tag = "accounts",
    params(NextQuery),
    responses(
        (status = 200, description = "Where to send the browser", body = LinkBody),
        (status = 404, description = "GitHub is no way in here", body = ProblemBody),
        (status = 429, description = "More than ten changes a minute", body = ProblemBody),
    )
)]
pub(super) async fn link(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    Query(query): Query<NextQuery>,
) -> Result<Response, Problem> {
    sign_in.0.changes.check(caller.user_id)?;
    let linking = Some((caller.user_id, caller.session.id));
    let (url, cookie) = sign_in.ask_github(linking, &place(query.next.as_deref())).await?;
    Ok(([(header::SET_COOKIE, cookie)], Json(LinkBody { authorize_url: url })).into_response())
}

/// Ends GitHub as the caller's way in
#[utoipa::path(
    delete, path = "/api/auth/github", tag = "accounts",
    responses(
        (status = 204, description = "Ended"),
        (status = 404, description = "It was none", body = ProblemBody),
        (status = 409, description = "There is no password: nothing would be left", body = ProblemBody),
    )
)]
pub(super) async fn unlink(
    caller: SignedIn,
    State(sign_in): State<SignIn>,
    parts: RequestParts,
) -> Result<StatusCode, Problem> {
    let user = caller.user_id;
    sign_in.0.changes.check(user)?;
    let removing = sign_in.in_transaction(async |tx| {
        hold(tx, user).await?;
        if passwords::hash(tx, user).await?.is_none() {
            return Err(SignInError::LastWayIn);
        }
        Ok(people::remove(tx, user, IdentityKind::GitHub).await?)
    });
    if !removing.await? {
        return Err(Problem::not_found());
    }
    let by = By::user(user, caller.address, &parts.headers);
    sign_in.0.log.record(user, AccountAction::IdentityUnlinked, Some("github"), None, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What GitHub sends people back to
///
/// Signs in, or links, and leads on. What goes wrong is told by the page for signing in.
#[utoipa::path(
    get, path = "/api/auth/github/callback", tag = "accounts",
    params(CallbackQuery),
    responses(
        (status = 303, description = "To where the sign-in was begun for, or to `/sign-in?problem=…`",
         headers(("Location" = String, description = "A page of this site"))),
        (status = 404, description = "GitHub is no way in here", body = ProblemBody),
    ),
    security(())
)]
pub(super) async fn callback(
    State(sign_in): State<SignIn>,
    Query(query): Query<CallbackQuery>,
    parts: RequestParts,
) -> Result<Response, Problem> {
    sign_in.0.auth.must_be_secure(&parts)?;
    let github = sign_in.0.github.as_ref().ok_or_else(Problem::not_found)?;
    let used_up = sign_in.0.site.clear(Cookie::SignIn);
    Ok(match sign_in.come_back(github, query, &parts).await {
        Ok((place, cookie)) => {
            let url = sign_in.0.site.link(&place);
            see_other(&url, std::iter::once(used_up).chain(cookie))
        }
        Err(failure) => {
            if let Failure::Other(problem) = failure {
                return Err(problem);
            }
            let url = sign_in.0.site.link(&format!("/sign-in?problem={}", failure.word()));
            see_other(&url, [used_up])
        }
    })
}

/// Why somebody comes back from GitHub and is not signed in.
enum Failure {
    /// The attempt is unknown here, used up, too old, or another browser's.
    Expired,
    /// GitHub, or its user, says no.
    Denied,
    /// GitHub does not answer.
    Away,
    /// GitHub does not take the code.
    Refused,
    /// No account is linked to the one of GitHub, and none is made.
    NotLinked,
    /// The account of GitHub is another user's, or the user has another one.
    Taken,
    /// The account may not be used.
    Barred,
    /// Anything else.
    Other(Problem),
}

impl Failure {
    fn word(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Away => "away",
            Self::Refused => "refused",
            Self::NotLinked => "not_linked",
            Self::Taken => "taken",
            Self::Barred => "barred",
            Self::Other(_) => "failed",
        }
    }
}

impl From<SignInError> for Failure {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Barred => Self::Barred,
            error => Self::Other(error.into()),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        SignInError::from(error).into()
    }
}

impl From<GitHubError> for Failure {
    fn from(error: GitHubError) -> Self {
        tracing::info!(error = %Chain(&error), "a sign-in with GitHub has failed");
        match error {
            GitHubError::Denied(_) => Self::Denied,
            GitHubError::Away(_) | GitHubError::Malformed => Self::Away,
            GitHubError::Refused => Self::Refused,
        }
    }
}

impl SignIn {
    /// Begins an attempt: GitHub's address for the browser, and the cookie for it.
    async fn ask_github(
        &self,
        linking: Option<(UserId, Uuid)>,
        next: &str,
    ) -> Result<(String, HeaderValue), Problem> {
        let GitHubSignIn { github, redirect } = self.0.github.as_ref().ok_or_else(Problem::not_found)?;
        let (state, browser) =
            (new_secret().map_err(SignInError::from)?, new_secret().map_err(SignInError::from)?);
        let attempt = Attempt { hash: state.hash(), browser: browser.hash(), linking, next: next.to_owned() };
        let now = self.now();
        let ends_at = now + TimeDelta::from_std(LASTS).unwrap_or_default();
        let mut conn = self.connection().await?;
        oauth_attempts::insert(&mut conn, &attempt, now, ends_at).await?;
        let url = github.authorize_url(redirect, state.expose(), &verifier(&browser)?);
        Ok((url.into(), self.0.site.set(Cookie::SignIn, &browser, LASTS)))
    }

    /// Where to go on, with which cookie.
    async fn come_back(
        &self,
        way: &GitHubSignIn,
        query: CallbackQuery,
        request: &RequestParts,
    ) -> Result<(String, Option<HeaderValue>), Failure> {
        let state =
            query.state.as_deref().and_then(|text| Secret::parse(text).ok()).ok_or(Failure::Expired)?;
        let browser = self.0.site.secret(&request.headers, Cookie::SignIn).ok_or(Failure::Expired)?;
        let mut conn = self.connection().await?;
        let attempt = oauth_attempts::take(&mut conn, &state.hash(), self.now()).await?;
        drop(conn);
        let attempt = attempt.filter(|attempt| attempt.browser == browser.hash()).ok_or(Failure::Expired)?;
        if let Some(error) = query.error {
            return Err(GitHubError::Denied(Denial::new(&error, query.error_description.as_deref())).into());
        }
        let code = query.code.ok_or(Failure::Refused)?;
        let verifier = verifier(&browser).map_err(Failure::Other)?;
        let token = way.github.exchange(&code, &verifier, &way.redirect).await?;
        let them = way.github.user(&token).await?;
        if let Some((user, session)) = attempt.linking {
            self.link_github(user, session, them, request).await?;
            return Ok((attempt.next, None));
        }
        let user = self.user_of_github(them).await?;
        let begun = self.begin(user, Method::GitHub, request).await?;
        let cookie = self.session_cookie(&begun);
        let place = if begun.is_pending() {
            format!("/sign-in?next={}", escaped(&attempt.next))
        } else {
            attempt.next
        };
        Ok((place, Some(cookie)))
    }

    /// The user of this account of GitHub; one is made where everybody may make one.
    async fn user_of_github(&self, them: GitHubUser) -> Result<UserId, Failure> {
        let identity = identity(&them, self.now());
        let mut conn = self.connection().await?;
        if let Some(user) = people::user_of(&mut conn, IdentityKind::GitHub, &identity.subject).await? {
            return Ok(user);
        }
        drop(conn);
        if self.0.registration != Registration::Open {
            return Err(Failure::NotLinked);
        }
        let (user, now) = (UserId::new(self.0.log.new_id()), self.now());
        let by = By::nobody_yet(user);
        let registered = self.0.log.record(user, AccountAction::Registered, Some("github"), None, &by).await;
        registered.map_err(SignInError::from)?;
        let registering = self.in_transaction(async |tx| {
            Ok(people::register(tx, user, &identity, Some(&identity.label), now).await?)
        });
        if registering.await? {
            return Ok(user);
        }
        // Somebody was quicker, with the same account.
        let mut conn = self.connection().await?;
        let user = people::user_of(&mut conn, IdentityKind::GitHub, &identity.subject).await?;
        user.ok_or(Failure::Expired)
    }

    /// Links the account of GitHub to the user who began, if that user is still signed in here by the same session.
    async fn link_github(
        &self,
        user: UserId,
        session: Uuid,
        them: GitHubUser,
        request: &RequestParts,
    ) -> Result<(), Failure> {
        let caller = self.0.auth.authenticate(request, true).await.map_err(|_| Failure::Expired)?;
        let is_same = caller.user_id == user
            && caller.session().is_some_and(|own| own.id == session && !own.is_pending);
        if !is_same {
            return Err(Failure::Expired);
        }
        let now = self.now();
        let identity = identity(&them, now);
        let by = By::user(user, caller.address, &request.headers);
        let linking = self.in_transaction(async |tx| {
            hold(tx, user).await?;
            Ok(people::add(tx, user, &identity, now).await?)
        });
        if !linking.await? {
            return Err(Failure::Taken);
        }
        self.0.credentials.forget(Changed::User(user));
        let linked = self.0.log.record(user, AccountAction::IdentityLinked, Some("github"), None, &by).await;
        linked.map_err(SignInError::from)?;
        Ok(())
    }
}

fn identity(them: &GitHubUser, now: chrono::DateTime<chrono::Utc>) -> Identity {
    Identity {
        kind: IdentityKind::GitHub,
        subject: them.id.to_string(),
        label: them.login.clone(),
        verified_at: Some(now),
    }
}

fn verifier(browser: &Secret) -> Result<Verifier, Problem> {
    Verifier::new(browser.derive(PKCE)).map_err(|error| Problem::internal(&error))
}

fn escaped(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// 303 with these cookies.
fn see_other(url: &str, cookies: impl IntoIterator<Item = HeaderValue>) -> Response {
    let cookies: Vec<_> = cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)).collect();
    let Ok(location) = HeaderValue::from_str(url) else {
        return Problem::fault("an address is none").into_response();
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)], AppendHeaders(cookies)).into_response()
}
