//! Credentials as requests present them.

use axum::http::{HeaderMap, HeaderName, header};
use credentials::ApiKey;

/// The header that carries an API key, beside `Authorization`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The credential that a request's headers present. What stands in the URL is none: it would be in every log on the
/// way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presented<'a> {
    /// `Authorization: Bearer …`: a JWT.
    Token(&'a str),
    /// An API key: `Authorization: Bearer ul_…`, `Authorization: token ul_…` or `X-Api-Key: …`.
    Key(&'a str),
    /// None.
    Nothing,
    /// More than one, or one of no form of ours.
    TooMuch,
}

/// The credential of a request. Two are none: whichever one is chosen, somebody in front may have chosen the other. An
/// `X-Api-Key` of another form beside `Authorization` is not ours, but the backend's behind the proxy.
pub(super) fn presented(headers: &HeaderMap) -> Presented<'_> {
    if headers.get(header::AUTHORIZATION).is_none() && headers.get(X_API_KEY).is_none() {
        return Presented::Nothing;
    }
    one(headers).unwrap_or(Presented::TooMuch)
}

fn one(headers: &HeaderMap) -> Option<Presented<'_>> {
    let mut authorization = headers.get_all(header::AUTHORIZATION).iter();
    let mut api_key = headers.get_all(X_API_KEY).iter();
    match (authorization.next(), api_key.next()) {
        (Some(value), own) if authorization.next().is_none() => {
            let is_ours = |value: &axum::http::HeaderValue| value.to_str().is_ok_and(ApiKey::is_meant);
            let others = own.into_iter().chain(api_key);
            if others.into_iter().any(is_ours) { None } else { of_authorization(value.to_str().ok()?) }
        }
        (None, Some(value)) if api_key.next().is_none() => Some(Presented::Key(value.to_str().ok()?.trim())),
        _ => None,
    }
}

/// The scheme's case does not matter (RFC 9110 §11.1). `token` is what GitHub's clients say.
fn of_authorization(value: &str) -> Option<Presented<'_>> {
    let (scheme, credential) = value.split_once(' ')?;
    let credential = credential.trim();
    let is_key = ApiKey::is_meant(credential);
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" if is_key => Some(Presented::Key(credential)),
        "bearer" if !credential.is_empty() => Some(Presented::Token(credential)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn one_credential_is_taken_and_two_are_none() {
        let key = "ul_dev_x";
        let taken = Presented::Key(key);
        for (headers, expected) in [
            (&[("authorization", "Bearer ul_dev_x")] as &[(&str, &str)], taken),
            (&[("authorization", "bearer  ul_dev_x ")], taken),
            (&[("authorization", "token ul_dev_x")], taken),
            (&[("authorization", "TOKEN ul_dev_x")], taken),
            (&[("x-api-key", "ul_dev_x")], taken),
            (&[("x-api-key", "other")], Presented::Key("other")),
            (&[("authorization", "Bearer ey.J.x")], Presented::Token("ey.J.x")),
            (&[("authorization", "Bearer ey.J.x"), ("x-api-key", "other")], Presented::Token("ey.J.x")),
            (&[], Presented::Nothing),
            (&[("authorization", "Bearer")], Presented::TooMuch),
            (&[("authorization", "Bearer ")], Presented::TooMuch),
            (&[("authorization", "token ey.J.x")], Presented::TooMuch),
            (&[("authorization", "Basic ul_dev_x")], Presented::TooMuch),
            (
                &[("authorization", "Bearer ul_dev_x"), ("authorization", "Bearer ul_dev_x")],
                Presented::TooMuch,
            ),
            (&[("x-api-key", "ul_dev_x"), ("x-api-key", "ul_dev_x")], Presented::TooMuch),
            (&[("authorization", "Bearer ul_dev_x"), ("x-api-key", "ul_dev_x")], Presented::TooMuch),
            (&[("authorization", "Bearer ey.J.x"), ("x-api-key", "ul_dev_x")], Presented::TooMuch),
            (
                &[("authorization", "Bearer ey.J.x"), ("x-api-key", "other"), ("x-api-key", "ul_dev_x")],
                Presented::TooMuch,
            ),
            (&[("authorization", "Basic eA=="), ("x-api-key", "ul_dev_x")], Presented::TooMuch),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(presented(&map), expected, "{headers:?}");
        }
    }
}
