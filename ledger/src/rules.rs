//! Rules that say what a call is counted as. Applied once, at admission or ingest; the event carries the result.

use std::borrow::Cow;

use serde::Deserialize;

use crate::endpoint::{Endpoint, Method};
use crate::path::{self, EncodedSlash, PathError};
use crate::text::Invalid;
use crate::usage::{Category, StatusCode, Units};

/// The rules in their order; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    ordered: Vec<Rule>,
    case: Case,
    slashes: EncodedSlash,
}

/// Comparison of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Ignored,
    Sensitive,
}

/// Classification of a call: what it is counted as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// Its category.
    pub category: Category,
    /// Whether it counts at all.
    pub counted: bool,
    /// Its cost when the caller does not say.
    pub units: Units,
    /// The endpoint to record.
    pub endpoint: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    method: Option<Method>,
    category: Category,
    units: Units,
    counted: bool,
    endpoint: Option<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    // As [`path::match_key`] gives it, folded where case is ignored.
    key: Vec<u8>,
    is_prefix: bool,
}

/// Why a rules file is refused.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It is not TOML of the expected form; the source names line and field.
    #[error("the rules are not valid TOML of the form [[rule]] match = \"/path*\" …")]
    Syntax(#[source] Box<toml::de::Error>),
    /// A rule's `match` is no path.
    #[error("rule {number}: match = {pattern:?} is not a path")]
    Pattern {
        /// The rule's number, from 1.
        number: usize,
        /// Its `match`.
        pattern: String,
        /// The reason.
        #[source]
        source: PathError,
    },
    /// A star stands elsewhere than at the end of a rule's `match`.
    #[error("rule {number}: match = {pattern:?} may hold one * only, at its end")]
    Star {
        /// The rule's number, from 1.
        number: usize,
        /// Its `match`.
        pattern: String,
    },
    /// Another field of a rule is wrong.
    #[error("rule {number}: {field} is not valid")]
    Field {
        /// The rule's number, from 1.
        number: usize,
        /// The field's name.
        field: &'static str,
        /// The reason.
        #[source]
        source: Invalid,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case_sensitive: bool,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    r#match: String,
    method: Option<String>,
    category: Option<Category>,
    units: Option<u64>,
    counted: Option<bool>,
    endpoint: Option<String>,
}

impl Default for Rules {
    /// `/api/analyze*` is analyze, `/api/auth/*` is auth, all else is other.
    fn default() -> Self {
        let rule = |prefix: &str, category| Rule {
            pattern: Pattern { key: prefix.as_bytes().to_vec(), is_prefix: true },
            method: None,
            category,
            units: Units::ONE,
            counted: true,
            endpoint: None,
        };
        Self {
            ordered: vec![rule("/api/analyze", Category::Analyze), rule("/api/auth/", Category::Auth)],
            case: Case::Ignored,
            slashes: EncodedSlash::default(),
        }
    }
}

impl Rules {
    /// Reads rules from TOML, in whose paths an escaped slash is treated as in calls:
    ///
    /// ```toml
    /// case_sensitive = false   # true: /api/Analyze is not /api/analyze, nor get GET, nor /x/ the /x of a match
    ///
    /// [[rule]]
    /// match = "/api/analyze*"  # a path, or with a star at the end all that begin so
    /// method = "POST"          # any method when left out
    /// category = "analyze"     # analyze, auth or other (when left out)
    /// units = 1                # what a call costs
    /// counted = true           # false: recorded, never counted
    /// endpoint = "/api/analyze" # the name recorded instead of the path
    /// ```
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn from_toml(text: &str, slashes: EncodedSlash) -> Result<Self, RulesError> {
        let file: File = toml::from_str(text).map_err(|error| RulesError::Syntax(Box::new(error)))?;
        let case = if file.case_sensitive { Case::Sensitive } else { Case::Ignored };
        let rules =
            file.rules.into_iter().zip(1..).map(|(entry, number)| Rule::new(entry, number, case, slashes));
        Ok(Self { ordered: rules.collect::<Result<_, _>>()?, case, slashes })
    }

    /// The same rules for calls in whose paths an escaped slash is treated so.
    #[must_use]
    pub fn with_encoded_slash(self, slashes: EncodedSlash) -> Self {
        Self { slashes, ..self }
    }

    /// The endpoint of a call with this path, normalised as these rules are to match it.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn endpoint(&self, path: &str) -> Result<Endpoint, PathError> {
        Endpoint::from_path(path, self.slashes)
    }

    /// Classifies a call of this endpoint. A call that ended with a 5xx never counts. Without a matching rule it is
    /// `other`, one unit. The endpoint to record is the rule's name for it, else the path as it was called: whoever
    /// ignores case and wants one name for all spellings gives it in the rule.
    pub fn classify(
        &self,
        endpoint: &Endpoint,
        method: Option<&Method>,
        status: Option<StatusCode>,
    ) -> Classified {
        let succeeded = !status.is_some_and(StatusCode::is_server_error);
        let key = self.case.key(endpoint.as_str());
        match self.ordered.iter().find(|rule| rule.matches(&key, method, self.case)) {
            Some(rule) => Classified {
                category: rule.category,
                counted: rule.counted && succeeded,
                units: rule.units,
                endpoint: rule.endpoint.as_ref().unwrap_or(endpoint).clone(),
            },
            None => Classified {
                category: Category::Other,
                counted: succeeded,
                units: Units::ONE,
                endpoint: endpoint.clone(),
            },
        }
    }
}

impl Case {
    /// What rules compare of a normalised path.
    fn key(self, endpoint: &str) -> Cow<'_, [u8]> {
        let key = path::match_key(endpoint);
        match self {
            Self::Ignored => path::fold(key),
            Self::Sensitive => key,
        }
    }

    fn equal(self, left: &[u8], right: &[u8]) -> bool {
        match self {
            Self::Ignored => left.eq_ignore_ascii_case(right),
            Self::Sensitive => left == right,
        }
    }
}

impl Rule {
    fn new(entry: RuleEntry, number: usize, case: Case, slashes: EncodedSlash) -> Result<Self, RulesError> {
        let field = |field| move |source| RulesError::Field { number, field, source };
        Ok(Self {
            pattern: Pattern::new(entry.r#match, number, case, slashes)?,
            method: entry.method.map(Method::new).transpose().map_err(field("method"))?,
            category: entry.category.unwrap_or(Category::Other),
            units: entry.units.map(Units::new).transpose().map_err(field("units"))?.unwrap_or_default(),
            counted: entry.counted.unwrap_or(true),
            endpoint: entry.endpoint.map(Endpoint::named).transpose().map_err(field("endpoint"))?,
        })
    }

    fn matches(&self, key: &[u8], method: Option<&Method>, case: Case) -> bool {
        let method_matches = self.method.as_ref().is_none_or(|expected| {
            // Lenient servers take `post` for `POST`.
            method.is_some_and(|given| case.equal(given.as_str().as_bytes(), expected.as_str().as_bytes()))
        });
        method_matches && self.pattern.matches(key, case)
    }
}

impl Pattern {
    fn new(text: String, number: usize, case: Case, slashes: EncodedSlash) -> Result<Self, RulesError> {
        let (path, is_prefix) = text.strip_suffix('*').map_or((text.as_str(), false), |path| (path, true));
        if path.contains('*') {
            return Err(RulesError::Star { number, pattern: text });
        }
        match path::normalise(path, slashes) {
            Ok(path) => Ok(Self { key: case.key(&path).into_owned(), is_prefix }),
            Err(source) => Err(RulesError::Pattern { number, pattern: text, source }),
        }
    }

    fn matches(&self, key: &[u8], case: Case) -> bool {
        if self.is_prefix {
            return key.get(..self.key.len()).is_some_and(|key| case.equal(key, &self.key));
        }
        match case {
            // Whoever is lenient about letters is about a slash at the end.
            Case::Ignored => case.equal(without_last_slash(key), without_last_slash(&self.key)),
            Case::Sensitive => case.equal(key, &self.key),
        }
    }
}

fn without_last_slash(key: &[u8]) -> &[u8] {
    key.strip_suffix(b"/").unwrap_or(key)
}

#[cfg(test)]
mod tests;
