//! Addresses of the providers' APIs, as variables give them.

use http::Uri;
use url::Url;
use vault::TokenKind;

use crate::base_url::{UrlRefused, base, below, fixed};

/// Addresses of the providers' APIs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUrls {
    /// `GITHUB_API_URL`, by default `https://api.github.com`.
    pub github: Url,
    /// `OPENAI_BASE_URL`, by default `https://api.openai.com`, without `/v1`.
    pub openai: Url,
    /// `ANTHROPIC_BASE_URL`, by default `https://api.anthropic.com`.
    pub anthropic: Url,
    /// `GEMINI_BASE_URL`, by default `https://generativelanguage.googleapis.com`.
    pub gemini: Url,
}

impl ProviderUrls {
    /// Reads the variables; `get` answers a variable's value, if it is set. A path stays, for those who go through a
    /// proxy of their own, which may be asked by plain http where it is near: see `near.rs`.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, UrlRefused> {
        let defaults = Self::default();
        Ok(Self {
            github: base(get, "GITHUB_API_URL", defaults.github)?,
            openai: without_version(base(get, "OPENAI_BASE_URL", defaults.openai)?),
            anthropic: base(get, "ANTHROPIC_BASE_URL", defaults.anthropic)?,
            gemini: base(get, "GEMINI_BASE_URL", defaults.gemini)?,
        })
    }

    /// The question that tests a token: who its user is, or which models there are. Nothing if it can't be requested.
    pub(super) fn test_address(&self, kind: TokenKind) -> Option<Uri> {
        let (base, path): (&Url, &[&str]) = match kind {
            TokenKind::Github => (&self.github, &["user"]),
            TokenKind::Openai => (&self.openai, &["v1", "models"]),
            TokenKind::Anthropic => (&self.anthropic, &["v1", "models"]),
            TokenKind::Gemini => (&self.gemini, &["v1", "models"]),
        };
        below(base, path)?.as_str().parse().ok()
    }
}

impl Default for ProviderUrls {
    fn default() -> Self {
        Self {
            github: fixed("https://api.github.com"),
            openai: fixed("https://api.openai.com"),
            anthropic: fixed("https://api.anthropic.com"),
            gemini: fixed("https://generativelanguage.googleapis.com"),
        }
    }
}

/// `OPENAI_BASE_URL` is a variable of `OpenAI`'s own libraries too, which want it with the version at its end.
fn without_version(mut url: Url) -> Url {
    let segments = url.path().trim_end_matches('/').strip_suffix("/v1").map(ToOwned::to_owned);
    if let Some(path) = segments {
        url.set_path(&path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variable: &'static str, value: &str) -> Result<ProviderUrls, UrlRefused> {
        let value = value.to_owned();
        ProviderUrls::read(&move |name| (name == variable).then(|| value.clone()))
    }

    fn addresses(urls: &ProviderUrls) -> [String; 4] {
        [TokenKind::Github, TokenKind::Openai, TokenKind::Anthropic, TokenKind::Gemini]
            .map(|kind| urls.test_address(kind).unwrap().to_string())
    }

    #[test]
    fn without_variables_it_is_the_real_ones() {
        let urls = ProviderUrls::read(&|_| None).unwrap();
        assert_eq!(urls, read("GEMINI_BASE_URL", "  ").unwrap());
        let expected = [
            "https://api.github.com/user",
            "https://api.openai.com/v1/models",
            "https://api.anthropic.com/v1/models",
            "https://generativelanguage.googleapis.com/v1/models",
        ];
        assert_eq!(addresses(&urls), expected);
    }

    #[test]
    fn in_the_clear_it_is_only_for_who_is_near() {
        let near =
            ["localhost", "ai.localhost", "proxy:8080", "127.0.0.1", "127.1", "10.0.0.7", "172.16.0.1"];
        let near = near.into_iter().chain(["192.168.1.1", "[::1]", "[fd00::1]", "[::ffff:10.0.0.7]"]);
        for host in near {
            read("GITHUB_API_URL", &format!("http://{host}/api")).unwrap();
        }
        let far =
            ["api.github.com", "127.0.0.1.example.org", "localhost.example", "com.", "8.8.8.8", "0.0.0.0"];
        let far =
            far.into_iter().chain(["172.32.0.1", "169.254.169.254", "[2001:db8::1]", "[::ffff:8.8.8.8]"]);
        for host in far {
            let error = read("GITHUB_API_URL", &format!("http://{host}")).unwrap_err().to_string();
            assert!(error.starts_with("GITHUB_API_URL cannot be used: http sends users' tokens"), "{error}");
            read("GITHUB_API_URL", &format!("https://{host}")).unwrap();
        }
    }

    #[test]
    fn a_path_stays_and_the_version_is_not_said_twice() {
        for base in ["http://proxy:1/a/b", "http://proxy:1/a/b/"] {
            let urls = read("ANTHROPIC_BASE_URL", base).unwrap();
            assert_eq!(addresses(&urls)[2], "http://proxy:1/a/b/v1/models");
        }
        for base in ["http://proxy:1", "http://proxy:1/v1", "http://proxy:1/v1/", " http://proxy:1/ "] {
            let urls = read("OPENAI_BASE_URL", base).unwrap();
            assert_eq!(addresses(&urls)[1], "http://proxy:1/v1/models", "{base}");
        }
        assert_eq!(
            addresses(&read("OPENAI_BASE_URL", "https://x/ai/v1").unwrap())[1],
            "https://x/ai/v1/models"
        );
        assert_eq!(
            addresses(&read("GITHUB_API_URL", "https://ghe/api/v3").unwrap())[0],
            "https://ghe/api/v3/user"
        );
    }

    #[test]
    fn what_cannot_be_a_base_is_refused_without_being_shown() {
        let bad = [
            "s3cret",
            "ftp://s3cret/",
            "https://s3cret@host/",
            "https://u:s3cret@host/",
            "https://host/?key=s3cret",
            "https://host/#s3cret",
            "https://",
            "data:s3cret",
        ];
        for text in bad {
            let error = read("GITHUB_API_URL", text).unwrap_err().to_string();
            assert_eq!(
                error,
                "GITHUB_API_URL cannot be used: it must be an http or https URL without user, query and fragment",
                "{text}"
            );
        }
    }
}
