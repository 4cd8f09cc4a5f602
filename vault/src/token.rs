//! Kinds of tokens, their checks, and the mask.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::secret::SecretText;

/// The longest token that is taken, in bytes. GitHub's longest have about 520.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// At least this many characters of a masked token stay hidden, or all of them do.
const HIDDEN_CHARS_MIN: usize = 12;

/// Number of a token's last characters that a mask shows.
const SHOWN_CHARS: usize = 4;

/// Mask of a token too short to show anything of. It does not even show the length.
const ALL_HIDDEN: &str = "••••••••";

/// Kind of a token: its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// github.com.
    Github,
    /// platform.openai.com.
    Openai,
    /// console.anthropic.com.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
}

/// Not a kind of token that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token type must be one of github, openai, anthropic, gemini")]
pub struct TokenKindError;

/// Why a token is not taken. Never says what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No characters at all.
    #[error("the token is empty")]
    Empty,
    /// More than [`TOKEN_BYTES_MAX`] bytes.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// A space, a tab, a line's end: usually a copying mistake.
    #[error("the token contains white space")]
    Whitespace,
    /// A control character, or one that changes the direction of the text around it.
    #[error("the token contains a control character")]
    Control,
    /// Its prefix is another provider's, beyond doubt.
    #[error("the token looks like one of {looks_like}")]
    OtherKind {
        /// The other kind.
        looks_like: TokenKind,
    },
}

/// Note to the user on a token that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenNote {
    /// It has none of the prefixes known for its kind. Formats change, so this is no error.
    UnknownFormat,
}

/// A prefix known today, and whose it is.
struct Prefix {
    text: &'static str,
    kind: TokenKind,
}

/// The longest match wins: `sk-ant-` is not `sk-`. These are all that a mask may show in front.
const PREFIXES: [Prefix; 15] = [
    Prefix { text: "ghp_", kind: TokenKind::Github },
    Prefix { text: "gho_", kind: TokenKind::Github },
    Prefix { text: "ghu_", kind: TokenKind::Github },
    Prefix { text: "ghr_", kind: TokenKind::Github },
    Prefix { text: "ghs_", kind: TokenKind::Github },
    Prefix { text: "github_pat_", kind: TokenKind::Github },
    Prefix { text: OPENAI_BARE, kind: TokenKind::Openai },
    Prefix { text: "sk-proj-", kind: TokenKind::Openai },
    Prefix { text: "sk-svcacct-", kind: TokenKind::Openai },
    Prefix { text: "sk-admin-", kind: TokenKind::Openai },
    Prefix { text: "sk-ant-", kind: TokenKind::Anthropic },
    Prefix { text: "sk-ant-api03-", kind: TokenKind::Anthropic },
    Prefix { text: "sk-ant-admin01-", kind: TokenKind::Anthropic },
    Prefix { text: "AIza", kind: TokenKind::Gemini },
    Prefix { text: "AQ.", kind: TokenKind::Gemini },
];

/// The oldest prefix of `OpenAI`. Anthropic's begin with it too, so between these two it proves nothing.
const OPENAI_BARE: &str = "sk-";

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Github, Self::Openai, Self::Anthropic, Self::Gemini];

    /// The name in JSON, in the database and in the associated data of a sealed token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }

    /// The kind that a token's prefix suggests, if it is a known one.
    pub fn suggested_by(token: &SecretText) -> Option<Self> {
        known_prefix(token.expose()).map(|prefix| prefix.kind)
    }

    /// Whether `token` may be stored as one of this kind.
    ///
    /// Refused are the empty, the longer than [`TOKEN_BYTES_MAX`], white space, control characters, and another
    /// kind's unmistakable prefix; never what is merely unknown.
    pub fn check(self, token: &SecretText) -> Result<Option<TokenNote>, TokenRefused> {
        check_text(token)?;
        let Some(prefix) = known_prefix(token.expose()) else {
            return Ok(Some(TokenNote::UnknownFormat));
        };
        if prefix.kind == self {
            let note =
                (prefix.text == "ghs_" && !plausible_ghs(token.len())).then_some(TokenNote::UnknownFormat);
            return Ok(note);
        }
        if self == Self::Anthropic && prefix.text == OPENAI_BARE {
            return Ok(Some(TokenNote::UnknownFormat));
        }
        Err(TokenRefused::OtherKind { looks_like: prefix.kind })
    }

    /// Whether `token` has a form in which this kind's provider is known to issue tokens: a known prefix, and behind it
    /// the characters of base64url and JWTs alone. For where a token comes without proof that it is one; a user's word
    /// is proof enough, since forms change.
    pub fn has_known_form(self, token: &SecretText) -> bool {
        let is_of_form = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        self.check(token) == Ok(None)
            && token.len() >= KNOWN_BYTES_MIN
            && token.expose().bytes().all(is_of_form)
    }
}

/// The shortest token of a known form. Those that providers issue have 39 characters or more.
const KNOWN_BYTES_MIN: usize = 20;

/// Whether a `ghs_` token has one of the two lengths that GitHub is known to issue: 36 characters after the prefix, or
/// about 520 in all where it carries a JWT.
fn plausible_ghs(length: usize) -> bool {
    length == 40 || (400..=700).contains(&length)
}

fn known_prefix(token: &str) -> Option<&'static Prefix> {
    PREFIXES.iter().filter(|prefix| token.starts_with(prefix.text)).max_by_key(|prefix| prefix.text.len())
}

/// Checks what must hold for a token of any kind.
pub(crate) fn check_text(token: &SecretText) -> Result<(), TokenRefused> {
    let text = token.expose();
    if text.is_empty() {
        return Err(TokenRefused::Empty);
    }
    if text.len() > TOKEN_BYTES_MAX {
        return Err(TokenRefused::TooLong);
    }
    if text.chars().any(char::is_whitespace) {
        return Err(TokenRefused::Whitespace);
    }
    if text.chars().any(|char| char.is_control() || is_bidi_control(char)) {
        return Err(TokenRefused::Control);
    }
    Ok(())
}

/// The directional formatting characters of Unicode (property `Bidi_Control`).
fn is_bidi_control(char: char) -> bool {
    matches!(char, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Mask of a token, fit to be shown: its known prefix, an ellipsis, its last 4 characters. Of a token that would have
/// fewer than 12 characters left in the dark, nothing.
pub fn mask(token: &SecretText) -> String {
    let text = token.expose();
    let prefix = known_prefix(text).map_or("", |prefix| prefix.text);
    let rest = &text[prefix.len()..];
    let chars = rest.chars().count();
    if chars < HIDDEN_CHARS_MIN + SHOWN_CHARS {
        return ALL_HIDDEN.to_owned();
    }
    let shown = rest.char_indices().nth(chars - SHOWN_CHARS).map_or("", |(start, _)| &rest[start..]);
    format!("{prefix}…{shown}")
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TokenKind {
    type Err = TokenKindError;

    fn from_str(text: &str) -> Result<Self, TokenKindError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(TokenKindError)
    }
}

#[cfg(test)]
mod tests;
