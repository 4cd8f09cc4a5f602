//! A row of the older form, as a line of a file tells it.

use std::borrow::Cow;

use ledger::{Invalid, UserRef};
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use vault::{RootKey, SecretText, TokenKind, TokenKindError, TokenRefused};

/// The longest line that is read. A token of 4 KiB takes half of it.
pub(crate) const MAX_LINE_BYTES: usize = 16 * 1024;

/// A row that was opened.
pub(crate) struct Row {
    /// User whose token it is.
    pub(crate) user: UserRef,
    /// Provider whose API it opens.
    pub(crate) kind: TokenKind,
    /// The user's name for it.
    pub(crate) name: Option<String>,
    /// The token.
    pub(crate) token: SecretText,
}

/// Reason for which a line gives no token. Shown behind the line's number; quotes nothing of the line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// It is longer than a line may be.
    #[error("longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// It is no JSON.
    #[error("not JSON (column {column})")]
    NotJson {
        /// Column at which reading ended.
        column: usize,
    },
    /// It is JSON of another form.
    #[error("not an object of user, token_type, encrypted, iv and perhaps token_name")]
    OtherForm,
    /// A member is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A member is not a string.
    #[error("{0}: it is not a string")]
    NotAString(&'static str),
    /// A member is not what it may be.
    #[error("{member}: {reason}")]
    Member {
        /// Its name.
        member: &'static str,
        /// The rule that it breaks.
        reason: Invalid,
    },
    /// Nobody knows the token's type.
    #[error("token_type: {0}")]
    TokenType(TokenKindError),
    /// It holds no token under this root key.
    #[error("it does not open under ENCRYPTION_KEY: another key, changed bytes, or no token")]
    NotOpened,
    /// It is not one of the type that the row names.
    #[error(transparent)]
    Refused(#[from] TokenRefused),
    /// Nothing proves that it is a token.
    #[error("it opens to no known form of a {0} token (--accept-unknown takes it all the same)")]
    UnknownForm(TokenKind),
    /// Nobody has this id.
    #[error("there is no such user (--provision makes one)")]
    UnknownUser,
    /// The user is a tombstone.
    #[error("the user was erased")]
    Erased,
    /// The user's data key cannot be used.
    #[error("{0}")]
    DataKey(vault::DataKeyError),
    /// The user stored a token of this type since, or another row of the file did.
    #[error("the user has another token of this type, which stays")]
    HasToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    user: Option<&'a RawValue>,
    #[serde(borrow)]
    token_type: Option<&'a RawValue>,
    #[serde(borrow)]
    token_name: Option<&'a RawValue>,
    #[serde(borrow)]
    encrypted: Option<&'a RawValue>,
    #[serde(borrow)]
    iv: Option<&'a RawValue>,
    /// `{"encrypted","iv"}`, as the column of that name holds it, in the place of the two.
    #[serde(borrow)]
    encrypted_token: Option<&'a RawValue>,
}

impl Row {
    /// Reads a line and opens what it holds. Nothing that could be told of it tells what it held.
    ///
    /// The older form has no tag: a wrong key opens one row in 256 to something, and whoever may change rows may change
    /// what they open to. So what has no known form is taken with `accept_unknown` alone.
    pub(crate) fn open(text: &[u8], root: &RootKey, accept_unknown: bool) -> Result<Self, RowError> {
        let line: Line<'_> = serde_json::from_slice(text).map_err(|error| match error.classify() {
            Category::Data => RowError::OtherForm,
            _ => RowError::NotJson { column: error.column() },
        })?;
        let user = text_of("user", line.user)?;
        let user = user.parse().map_err(|reason| RowError::Member { member: "user", reason })?;
        let kind = text_of("token_type", line.token_type)?;
        let kind: TokenKind = kind.parse().map_err(RowError::TokenType)?;
        let name = line.token_name.filter(|name| name.get() != "null");
        let name = name.map(name_of).transpose()?;
        let sealed = match (line.encrypted_token, line.encrypted, line.iv) {
            (Some(both), None, None) => both.get().to_owned(),
            (None, Some(encrypted), Some(iv)) => format!(r#"{{"encrypted":{encrypted},"iv":{iv}}}"#),
            (None, None, _) => return Err(RowError::Missing("encrypted")),
            (None, Some(_), None) => return Err(RowError::Missing("iv")),
            (Some(_), _, _) => return Err(RowError::OtherForm),
        };
        let token = vault::legacy::open_for_import(root, &sealed).map_err(|_| RowError::NotOpened)?;
        kind.check(&token)?;
        if !accept_unknown && !kind.has_known_form(&token) {
            return Err(RowError::UnknownForm(kind));
        }
        Ok(Self { user, kind, name, token })
    }
}

fn name_of(raw: &RawValue) -> Result<String, RowError> {
    let name = text_of("token_name", Some(raw))?;
    ledger::text::check_name("a token's name", &name)
        .map_err(|reason| RowError::Member { member: "token_name", reason })?;
    Ok(name.into_owned())
}

fn text_of<'a>(member: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, RowError> {
    let raw = raw.ok_or(RowError::Missing(member))?;
    // The library's error would quote the value.
    serde_json::from_str(raw.get()).map_err(|_| RowError::NotAString(member))
}

#[cfg(test)]
mod tests {
    use super::Row;
    use vault::RootKey;

    fn said(line: &str) -> String {
        let root = RootKey::parse(&"1".repeat(64)).expect("a key");
        Row::open(line.as_bytes(), &root, false).err().expect("it holds no token").to_string()
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_quoted() {
        let hex = "ab".repeat(16);
        let good = format!(r#"{{"user":"alice","token_type":"github","encrypted":"{hex}","iv":"{hex}"}}"#);
        let form = "not an object of user, token_type, encrypted, iv and perhaps token_name";
        let closed = "it does not open under ENCRYPTION_KEY: another key, changed bytes, or no token";
        assert_eq!(said(&good), closed);
        let nested = format!(
            r#"{{"user":"alice","token_type":"github","encrypted_token":{{"encrypted":"{hex}","iv":"{hex}"}}}}"#
        );
        assert_eq!(said(&nested), closed);
        for (line, expected) in [
            (good.replace("\"iv\"", "\"ghp_secret\""), form),
            (good.replace('{', "{\"v\":2,"), form),
            (good.replace('{', "{\"user\":\"bob\","), form),
            (good.replace('{', "{\"encrypted_token\":{},"), form),
            ("\"ghp_secret\"".to_owned(), form),
            (good[1..].to_owned(), form),
            ("ghp_secret".to_owned(), "not JSON (column 1)"),
            (good.replace(",\"iv\"", ",\"token_name\""), "iv is missing"),
            (good.replace("\"user\":\"alice\",", ""), "user is missing"),
            (good.replace("\"alice\"", "12345678"), "user: it is not a string"),
            (good.replace("alice", "me"), "user: the external id \"me\" is reserved"),
            (
                good.replace("github", "ghp_secret"),
                "token_type: the token type must be one of github, openai, anthropic, gemini",
            ),
            (good.replace('{', "{\"token_name\":\"\","), "token_name: a token's name must not be empty"),
            (good.replace(&format!("\"{hex}\""), "8675309"), closed),
            (good.replace(&hex, "ghp_secret"), closed),
        ] {
            let said = said(&line);
            assert_eq!(said, expected, "{line}");
            assert!(!said.contains("ghp_secret") && !said.contains("8675309") && !said.contains("12345678"));
        }
    }
}
