//! Scopes of tokens for pages of the host's, by the words that those have for them.

use credentials::{Scope, Scopes};
use serde_json::Value;

const NAMES: [(&str, Scope); 3] =
    [("read", Scope::Read), ("upgrade", Scope::Plans), ("tokens", Scope::Tokens)];

/// The scope of this word.
pub(crate) fn named(word: &str) -> Option<Scope> {
    NAMES.into_iter().find(|(its, _)| *its == word).map(|(_, scope)| scope)
}

/// The word for this scope, if it has one.
pub(super) fn name(scope: Scope) -> Option<&'static str> {
    NAMES.into_iter().find(|(_, its)| *its == scope).map(|(word, _)| word)
}

/// The words for these.
pub(super) fn words(scopes: Scopes) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |(_, scope)| scopes.contains(*scope)).map(|(word, _)| word)
}

/// Reads a token's claim; none if it is another than a list of these words.
pub(super) fn read(claim: &Value) -> Option<Scopes> {
    claim.as_array()?.iter().map(|word| named(word.as_str()?)).collect()
}
