//! GitHub as a way in.

use outbound::github::GitHub;
use url::Url;

/// GitHub as a way in.
pub(crate) struct GitHubSignIn {
    /// GitHub.
    pub(crate) github: GitHub,
    /// Where it sends people back to.
    pub(crate) redirect: Url,
}
