//! Queries about what users keep here: whose it is, and which page of it.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::paging::PageLimit;

/// Owner of what a request is about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OwnerQuery {
    /// Whose; role admin only.
    pub(crate) user_id: Option<String>,
}

/// Owner of a list, and the page of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OwnedListQuery {
    /// Whose; role admin only.
    pub(crate) user_id: Option<String>,
    /// Items a page, 1 to 500; 50 unless given.
    #[serde(default)]
    #[param(value_type = Option<u32>)]
    pub(crate) limit: PageLimit,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}
