//! This service as browsers see it: where it is, and its cookies.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use credentials::Secret;
use url::{Host, Url};

/// Where this service is, for browsers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Site(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    public_url: Option<Url>,
    /// Whether cookies go over https alone.
    is_secure: bool,
}

/// A cookie of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// Secret of a session.
    Session,
    /// Secret of a sign-in that is under way elsewhere.
    SignIn,
}

impl Site {
    /// The service at `PUBLIC_URL`. Its cookies go over https alone, unless it is known to be at `http` on this
    /// machine.
    pub fn new(public_url: Option<Url>) -> Self {
        let is_local = public_url.as_ref().is_some_and(|url| url.scheme() == "http" && is_loopback(url));
        Self(Arc::new(Parts { public_url, is_secure: !is_local }))
    }

    /// Whether clients reach it over https.
    pub(crate) fn is_https(&self) -> bool {
        self.0.public_url.as_ref().is_some_and(|url| url.scheme() == "https")
    }

    /// Its address, if it is known.
    pub(crate) fn public_url(&self) -> Option<&Url> {
        self.0.public_url.as_ref()
    }

    /// The address of a path, as `PUBLIC_URL` has it; the path itself where that is not known. No request's `Host` is
    /// asked: whoever sends it could have links made that lead elsewhere.
    pub fn link(&self, path: &str) -> String {
        let base = self.0.public_url.as_ref().map_or("", |url| url.as_str().trim_end_matches('/'));
        format!("{base}{path}")
    }

    fn name(&self, cookie: Cookie) -> &'static str {
        match (cookie, self.0.is_secure) {
            (Cookie::Session, true) => "__Host-ul_session",
            (Cookie::Session, false) => "ul_session",
            (Cookie::SignIn, true) => "__Host-ul_sign_in",
            (Cookie::SignIn, false) => "ul_sign_in",
        }
    }

    /// The secret in the request's cookie; none when there is none, or more than one of the name: whichever one is
    /// chosen, somebody else may have set the other.
    pub(crate) fn secret(&self, headers: &HeaderMap, cookie: Cookie) -> Option<Secret> {
        let name = self.name(cookie);
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter_map(|(its, value)| (its == name).then_some(value));
        let value = values.next().filter(|_| values.next().is_none())?;
        Secret::parse(value).ok()
    }

    /// `Set-Cookie` that gives a browser the secret for this time.
    pub(crate) fn set(&self, cookie: Cookie, secret: &Secret, lasts: Duration) -> HeaderValue {
        let mut value = self.value(cookie, secret.expose(), lasts.as_secs());
        value.set_sensitive(true);
        value
    }

    /// `Set-Cookie` that takes it from the browser.
    pub(crate) fn clear(&self, cookie: Cookie) -> HeaderValue {
        self.value(cookie, "", 0)
    }

    fn value(&self, cookie: Cookie, value: &str, max_age_s: u64) -> HeaderValue {
        let secure = if self.0.is_secure { "; Secure" } else { "" };
        let name = self.name(cookie);
        let text = format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).expect("a secret is letters, digits, hyphens and underscores")
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(url: &str) -> Site {
        Site::new(Some(url.parse().unwrap()))
    }

    #[test]
    fn cookies_go_in_the_clear_on_this_machine_alone() {
        let secret = Secret::parse(&"A".repeat(43)).unwrap();
        for (site, expected) in [
            (Site::new(None), "__Host-ul_session"),
            (site("https://ledger.example.com"), "__Host-ul_session"),
            (site("http://ledger.example.com"), "__Host-ul_session"),
            (site("http://127.0.0.1.example.com"), "__Host-ul_session"),
            (site("http://127.0.0.1:8080"), "ul_session"),
            (site("http://[::1]:8080"), "ul_session"),
            (site("http://localhost"), "ul_session"),
        ] {
            let value = site.set(Cookie::Session, &secret, Duration::from_mins(1));
            let value = value.to_str().unwrap();
            let (name, attributes) = value.split_once('=').unwrap();
            assert_eq!(name, expected);
            assert_eq!(value.contains("; Secure"), name.starts_with("__Host-"), "{attributes}");
            assert!(
                attributes.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure")
                    || name == "ul_session"
            );
        }
    }

    #[test]
    fn one_cookie_is_taken_and_two_are_none() {
        let site = site("https://ledger.example.com");
        let text = "A".repeat(43);
        let own = format!("__Host-ul_session={text}");
        for (lines, is_taken) in [
            (vec![own.clone()], true),
            (vec![format!("a=b; {own};c=d")], true),
            (vec!["a=b".to_owned(), own.clone()], true),
            (vec![format!("{own}; {own}")], false),
            (vec![own.clone(), own.clone()], false),
            (vec![format!("ul_session={text}")], false),
            (vec![format!("__host-ul_session={text}")], false),
            (vec!["__Host-ul_session=".to_owned()], false),
            (vec![format!("{own}x")], false),
            (vec![], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            assert_eq!(site.secret(&headers, Cookie::Session).is_some(), is_taken, "{lines:?}");
        }
    }

    #[test]
    fn links_are_of_the_public_address() {
        assert_eq!(site("https://x.example.com/").link("/sign-in"), "https://x.example.com/sign-in");
        assert_eq!(
            site("https://x.example.com/ledger").link("/sign-in"),
            "https://x.example.com/ledger/sign-in"
        );
        assert_eq!(Site::new(None).link("/sign-in"), "/sign-in");
    }
}
