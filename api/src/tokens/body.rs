//! Stored tokens as answers tell of them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use store::read::stored_tokens::StoredToken;
use utoipa::ToSchema;
use uuid::Uuid;
use vault::TokenNote;

/// A stored token, without what is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenBody {
    pub(super) id: Uuid,
    /// `github`, `openai`, `anthropic` or `gemini`.
    pub(super) token_type: String,
    /// What the user calls it.
    pub(super) token_name: Option<String>,
    /// What may be shown of it: a prefix and the last four characters, or nothing.
    pub(super) masked: String,
    /// The same for the same token of the same user and type.
    pub(super) fingerprint: String,
    /// What the user should hear about a token that was taken all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) warnings: Vec<Warning>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    /// Null until it was used.
    pub(super) last_used: Option<DateTime<Utc>>,
}

/// What is odd about a token that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Warning {
    /// `unknown_format`.
    pub(super) code: &'static str,
    pub(super) detail: &'static str,
}

impl From<StoredToken> for TokenBody {
    fn from(token: StoredToken) -> Self {
        Self {
            id: token.id,
            token_type: token.token_type,
            token_name: token.token_name,
            masked: token.masked,
            fingerprint: token.fingerprint,
            warnings: Vec::new(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            last_used: token.last_used,
        }
    }
}

impl From<TokenNote> for Warning {
    fn from(note: TokenNote) -> Self {
        match note {
            TokenNote::UnknownFormat => Self {
                code: "unknown_format",
                detail: "the token does not look like one of its type; formats change, so it was taken",
            },
        }
    }
}
