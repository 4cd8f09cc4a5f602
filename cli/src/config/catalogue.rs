//! Every variable there is.

/// Part of a value that may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All of it.
    Plain,
    /// A URL whose password is left out.
    Url,
    /// Nothing.
    Secret,
}

/// One variable.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    /// Its value when nobody sets it; empty when there is none.
    pub(crate) default: &'static str,
    pub(crate) shown: Shown,
    pub(crate) meaning: &'static str,
}

const fn plain(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, shown: Shown::Plain, meaning }
}

const fn url(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default: "", shown: Shown::Url, meaning }
}

const fn url_or(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, shown: Shown::Url, meaning }
}

const fn secret(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default: "", shown: Shown::Secret, meaning }
}

/// All variables, in the order in which `usage-ledger config` lists them.
pub(crate) const VARIABLES: &[Variable] = &[
    url("DATABASE_URL", "PostgreSQL; sslmode=require|verify-full works"),
    plain(
        "DATABASE_CONNECTIONS",
        "16",
        "the most connections of one api for requests, beside five of its own",
    ),
    url("NATS_URL", "servers of the log, comma-separated; tls:// works"),
    url("NATS_MONITOR_URL", "their monitoring endpoints, comma-separated"),
    plain("NATS_STREAM", "LEDGER", "the stream that holds the log"),
    plain("NATS_REPLICAS", "1", "its copies when it is made: 1, 3 or 5"),
    plain("ALLOW_UNSAFE_LOG", "false", "start although the log may lose what it acknowledged"),
    plain("LISTEN_ADDR", "127.0.0.1:8080", "where the api listens"),
    plain("METRICS_ADDR", "", "where /metrics is served; nowhere when empty"),
    plain("PUBLIC_URL", "", "how clients reach the api"),
    secret("ENCRYPTION_KEY", "root key of stored tokens, 64 hex digits"),
    plain("ENCRYPTION_KEY_ID", "k1", "its name"),
    secret("ENCRYPTION_KEY_PREVIOUS", "earlier root keys, kid:hex,…"),
    plain("LEDGER_ENV", "dev", "name of these surroundings, which API keys begin with: ul_dev_…"),
    secret("JWT_SECRET", "signs and verifies tokens, at least 32 bytes"),
    secret("JWT_SECRET_PREVIOUS", "the one before, which verifies only"),
    plain("JWT_ISSUER", "", "the iss that tokens must have, beside our own"),
    plain("JWT_AUDIENCE", "", "the aud that tokens must have"),
    plain("JWT_SUBJECT_CLAIM", "sub", "the claim that names the user"),
    plain("JWT_JWKS_URL", "", "keys of the identity provider that signs tokens of users (JWKS)"),
    plain("REGISTRATION", "closed", "who may make an account: closed, invite or open (dev: open)"),
    plain(
        "PASSWORD_HASH",
        "m=19456,t=2,p=1",
        "what hashing a password costs: KiB, passes, lanes of Argon2id",
    ),
    plain("GITHUB_CLIENT_ID", "", "people may sign in with GitHub: the app's client id"),
    secret("GITHUB_CLIENT_SECRET", "its client secret"),
    url_or("GITHUB_URL", "https://github.com", "where people sign in"),
    plain("SESSION_IDLE", "12h", "a session of a browser that is not used for so long ends"),
    plain("SESSION_MAX", "7d", "every session of a browser ends so long after the sign-in"),
    plain("AUTO_PROVISION", "false", "unknown users get an account (dev: true)"),
    plain("SELF_UPGRADE", "false", "users may change their own plan (dev: true)"),
    plain("SELF_RESET", "false", "users may reset their own month (dev: true)"),
    plain("USER_INGEST", "false", "users may report their own calls (dev: true)"),
    plain("ENFORCEMENT", "enforce", "enforce, or shadow: refuse nothing, say what would be refused"),
    plain("LIMIT_FAILURE_MODE", "closed", "without limits to decide by: closed answers 503, open admits"),
    plain(
        "MAX_CONNECTIONS",
        "10000",
        "connections of clients at a time, as far as there are file descriptors",
    ),
    plain("MAX_LAG", "4s", "how far the projection may be behind before those who report have to wait"),
    plain("MAX_UNPROJECTED", "1000000", "calls of one user that may wait for the projection"),
    plain("UPGRADE_URL", "", "where a refused user can get a larger plan"),
    plain("RULES_FILE", "", "TOML rules of what counts"),
    plain("ENCODED_SLASH", "refuse", "a %2F in a path: refuse, or keep: a character like any other"),
    plain(
        "DEDUPE_HORIZON",
        "35d",
        "how long an id counts once whatever its time, at least; with the same time, for ever",
    ),
    plain("CLOSE_GRACE", "1h", "how long after its end, and its last new row, a month is closed"),
    plain("TRUSTED_PROXIES", "", "networks whose X-Forwarded-For and ids of requests are believed"),
    plain(
        "FORWARD_AUTH_ID_HEADER",
        "",
        "header in which trusted proxies name a request, which then counts once",
    ),
    plain(
        "FORWARD_AUTH_PREFLIGHT",
        "check",
        "check: a preflight is a request like any other; pass: not recorded",
    ),
    plain("CORS_ALLOWED_ORIGINS", "", "origins of browsers, comma-separated"),
    plain("LOG_FORMAT", "text", "text or json"),
    plain("CLOCK_OFFSET_MS", "0", "how far the ledger's clock is ahead (dev --now)"),
    url_or("GITHUB_API_URL", "https://api.github.com", "GitHub's API, or a proxy in front of it"),
    url_or("OPENAI_BASE_URL", "https://api.openai.com", "likewise, without /v1"),
    url_or("ANTHROPIC_BASE_URL", "https://api.anthropic.com", "likewise"),
    url_or("GEMINI_BASE_URL", "https://generativelanguage.googleapis.com", "likewise"),
    secret("OPENAI_API_KEY", "for calls without a token of the user's"),
    secret("ANTHROPIC_API_KEY", "likewise"),
    secret("GEMINI_API_KEY", "likewise"),
    plain("GITHUB_CLIENT_ID", "", "signing in with GitHub"),
    secret("GITHUB_CLIENT_SECRET", "likewise"),
];
