//! Why a sign-in with GitHub comes to nothing.

use std::fmt;

use http::StatusCode;
use vault::SecretText;

use super::TIMEOUT;
use crate::client::NoAnswer;

/// Most characters of what GitHub says that are passed on.
const ERROR_CHARS_MAX: usize = 64;
const DESCRIPTION_CHARS_MAX: usize = 200;

/// GitHub cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum GitHubSetupError {
    /// TLS has no settings to start from.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// One of the addresses is none that paths can be added to.
    #[error("GitHub's address cannot be requested")]
    Url,
}

/// A text that is no verifier of PKCE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a verifier has 43 to 128 letters, digits, -, ., _ and ~")]
pub struct NotAVerifier;

/// Why nobody is signed in. None of it holds a token or a secret.
#[derive(Debug, thiserror::Error)]
pub enum GitHubError {
    /// GitHub says why not: the person declined, or the application's settings are wrong.
    #[error("GitHub says: {0}")]
    Denied(Denial),
    /// GitHub is not there, or not well.
    #[error("GitHub does not answer: {0}")]
    Away(#[source] Absence),
    /// GitHub does not take the code or the token: it is used up, too old, or of another attempt.
    #[error("GitHub refuses the code or the token")]
    Refused,
    /// An answer that says nothing of what was asked.
    #[error("GitHub's answer cannot be read")]
    Malformed,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum Absence {
    /// It took too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// There is no connection, or no HTTP on it.
    #[error("no connection")]
    Failed(#[source] hyper_util::client::legacy::Error),
    /// An error of its own, or it is asked too often.
    #[error("its answer has status {0}")]
    Status(StatusCode),
    /// As many as may ask at once do. It was not asked; again in a few seconds.
    #[error("too many ask at once")]
    Busy,
}

/// What GitHub says of an error, cut, and on one line: it is text from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Its word for it, such as `access_denied`.
    pub error: String,
    /// Its sentence.
    pub description: Option<String>,
}

impl Denial {
    /// What GitHub says, in the address to which it sends a person back or in an answer.
    pub fn new(error: &str, description: Option<&str>) -> Self {
        Self {
            error: cut(error, ERROR_CHARS_MAX),
            description: description.map(|description| cut(description, DESCRIPTION_CHARS_MAX)),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.description {
            Some(description) => write!(f, "{}: {description}", self.error),
            None => f.write_str(&self.error),
        }
    }
}

impl GitHubError {
    pub(super) fn away(none: NoAnswer) -> Self {
        Self::Away(match none {
            NoAnswer::TimedOut => Absence::TimedOut,
            NoAnswer::Failed(error) => Absence::Failed(error),
        })
    }

    /// An error in an answer. What quotes a secret is left out.
    pub(super) fn said(error: &str, description: Option<&str>, secrets: &[SecretText]) -> Self {
        let is_clean =
            |text: &str| !secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret.expose()));
        match error {
            "bad_verification_code" | "invalid_grant" => Self::Refused,
            error if is_clean(error) => {
                Self::Denied(Denial::new(error, description.filter(|text| is_clean(text))))
            }
            _ => Self::Malformed,
        }
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(chars_max).collect()
}
