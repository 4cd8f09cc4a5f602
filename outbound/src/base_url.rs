//! Addresses that variables give, and whose paths are ours.

use http::Uri;
use url::Url;

use crate::near::is_near;

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable} cannot be used: {reason}")]
pub struct UrlRefused {
    /// Name of the variable.
    pub variable: &'static str,
    /// Words on what is wrong and what would be right; never the value, which may hold a secret.
    pub reason: &'static str,
}

/// The address of this path below a base. Nothing if it can't be requested.
pub(crate) fn below(base: &Url, path: &[&str]) -> Option<Url> {
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(path);
    Some(url)
}

/// An address of ours.
pub(crate) fn fixed(url: &str) -> Url {
    Url::parse(url).expect("the URL is a literal")
}

/// The address that a variable gives, of which paths are made; the default where it is not set.
pub(crate) fn base(
    get: &dyn Fn(&str) -> Option<String>,
    variable: &'static str,
    default: Url,
) -> Result<Url, UrlRefused> {
    let Some(text) = get(variable).filter(|text| !text.trim().is_empty()) else { return Ok(default) };
    let refused = |reason| UrlRefused { variable, reason };
    let url = Url::parse(text.trim()).ok().filter(is_base);
    let url =
        url.ok_or_else(|| refused("it must be an http or https URL without user, query and fragment"))?;
    if url.scheme() == "http" && !url.host().as_ref().is_some_and(is_near) {
        return Err(refused(
            "http sends users' tokens in the clear; it is taken for localhost, private addresses and names without a \
             dot alone, use https",
        ));
    }
    Ok(url)
}

fn is_base(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.as_str().parse::<Uri>().is_ok()
}
