//! A browser: it keeps the session's cookie, and knows its CSRF token.

use anyhow::{Context, Result};
use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use testkit::{Answer, Client, Request, World};

/// A password that is taken.
pub(crate) const PASSWORD: &str = "correct horse battery staple 7";

/// A browser of somebody at an address of its own.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    client: Client,
    /// Told to the api by a proxy that it trusts; none: the tests' own.
    address: Option<String>,
    /// `name=value`.
    pub(crate) cookie: Option<String>,
    pub(crate) csrf: String,
}

impl Browser {
    /// Nobody is signed in.
    pub(crate) fn new(world: &World) -> Result<Self> {
        Ok(Self { client: world.anonymous()?, address: None, cookie: None, csrf: String::new() })
    }

    /// The same at another address, where the api trusts 127.0.0.1 as a proxy.
    pub(crate) fn from(&self, address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..self.clone() }
    }

    /// A request with the cookie, and with the CSRF token if it changes something.
    pub(crate) fn request(&self, method: Method, path: &str) -> Request {
        let is_safe = method.is_safe();
        let mut request = self.bare(method, path);
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        if !is_safe && self.cookie.is_some() {
            request = request.header("x-csrf-token", &self.csrf).header("sec-fetch-site", "same-origin");
        }
        request
    }

    /// A request without either.
    pub(crate) fn bare(&self, method: Method, path: &str) -> Request {
        let request = self.client.request(method, path);
        match &self.address {
            Some(address) => request.header("x-forwarded-for", address),
            None => request,
        }
    }

    /// A GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.request(Method::GET, path).send().await
    }

    /// A DELETE.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer> {
        self.request(Method::DELETE, path).send().await
    }

    /// A POST. What the answer says of the session is kept.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        let answer = self.request(Method::POST, path).json(body).send().await?;
        self.keep(&answer);
        Ok(answer)
    }

    /// Keeps the cookie and the CSRF token of an answer.
    pub(crate) fn keep(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie").iter().filter_map(|line| line.to_str().ok()) {
            let pair = line.split(';').next().unwrap_or_default();
            if pair.contains("ul_session=") {
                self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
            }
        }
        if let Some(csrf) = answer.json().ok().and_then(|body| body["csrf_token"].as_str().map(str::to_owned))
        {
            self.csrf = csrf;
        }
    }

    /// Signs in by address and password.
    pub(crate) async fn login(&mut self, email: &str, password: &str) -> Result<Answer> {
        self.post("/api/auth/login", &json!({"email": email, "password": password})).await
    }
}

/// Somebody who has registered and signed in, at an api with `REGISTRATION=open`.
pub(crate) async fn signed_in(world: &World, email: &str) -> Result<Browser> {
    let mut browser = Browser::new(world)?;
    let body = json!({"email": email, "password": PASSWORD});
    browser.post("/api/auth/register", &body).await?.expect(202)?;
    browser.login(email, PASSWORD).await?.expect(200)?;
    Ok(browser)
}

/// The user who is signed in.
pub(crate) async fn user_id(browser: &Browser) -> Result<String> {
    let session = browser.get("/api/auth/session").await?.expect(200)?.json()?;
    Ok(session["user_id"].as_str().context("user_id")?.to_owned())
}

/// The ledger's clock goes on by so many minutes.
pub(crate) fn later(world: &World, minutes: i64) {
    let clock = &world.env.clock;
    clock.set(clock.now() + TimeDelta::minutes(minutes));
}
