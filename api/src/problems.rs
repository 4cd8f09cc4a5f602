//! Problems for errors: the one place where what went wrong in a capability becomes an answer.
//!
//! It stands above the capabilities, since it knows all of their errors; `http::problem`, below them, knows the form of
//! a problem, and what log, database and data keys may answer. Every match names every case: a new error cannot be
//! answered by accident.

use axum::http::StatusCode;
use credentials::password::HashError;
use vault::TokenRefused;

use crate::accounts::{AccountLogError, ApiKeysError, SignInError};
use crate::auth::{AccountsError, AuthError};
use crate::http::problem::{Code, FieldError, Problem};
use crate::ingest::IngestError;
use crate::limits::{LimitsError, Unready};
use crate::metering::MeteringError;
use crate::metering::sealer::SealError;
use crate::plans::PlansError;
use crate::tokens::TokensError;
use crate::usage::UsageError;
use crate::users::UsersError;

impl From<LimitsError> for Problem {
    fn from(error: LimitsError) -> Self {
        match error {
            LimitsError::Unready(Unready::Database) | LimitsError::Unreadable => {
                Self::unavailable("database")
            }
            LimitsError::Unready(Unready::Stopping) => Self::busy("This process is ending; try again."),
            LimitsError::Unready(Unready::Crowded) => {
                Self::busy("Too many calls are not counted yet; try again.")
            }
            LimitsError::Unready(Unready::Elsewhere) => {
                Self::busy("Another instance decides about calls; try again.")
            }
            LimitsError::Unready(Unready::CatchingUp) => {
                Self::busy("Limits cannot be decided yet: counts are still being brought up to date.")
            }
            LimitsError::Uncounted => {
                Self::busy("Reported calls of this user are not counted yet; try again.")
            }
            LimitsError::Behind { .. } => {
                Self::busy("Too many calls of this user are recorded and not counted yet; try again.")
            }
            LimitsError::Crowded { .. } => {
                Self::busy("Too many calls are recorded and not counted yet; try again.")
            }
            LimitsError::Shed { retry_after_s } => Self::rate_limited(
                "More is reported than is counted at the moment; nothing of this request was taken in.",
                retry_after_s,
            ),
        }
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Key(error) => error.into(),
            SealError::Entropy(error) => Self::internal(&error),
            SealError::Form(error) => Self::internal(&error),
        }
    }
}

impl From<AccountsError> for Problem {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::Store(error) => error.into(),
            AccountsError::Keys(error) => error.into(),
            AccountsError::Vanished => Self::fault(error.to_string()),
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthorized => Self::unauthorized(),
            AuthError::TooManyFailures { retry_after_s } => {
                Self::rate_limited("Too many failed credentials from this address.", retry_after_s)
            }
            AuthError::IssuerAway => Self::busy("The identity provider's keys cannot be read; try again."),
            AuthError::Suspended => {
                Self::new(StatusCode::FORBIDDEN, Code::AccountSuspended, "This account is suspended.")
            }
            AuthError::Role(roles) => Self::forbidden(format!("This needs the role {roles}.")),
            AuthError::Scope(scope) => {
                Self::forbidden(format!("This needs an API key with the scope {}.", scope.as_str()))
            }
            AuthError::NotByKey => Self::forbidden("No API key and no token of a page may do this."),
            AuthError::NoSession => Self::forbidden("This is for people who have signed in."),
            AuthError::FactorDue => {
                second_factor("Show the second factor first: POST /api/auth/factors/verify.")
            }
            AuthError::FactorMissing => {
                second_factor("An admin sets a second factor up first: POST /api/auth/factors.")
            }
            AuthError::CrossSite => Self::new(
                StatusCode::FORBIDDEN,
                Code::CrossSite,
                "A request with the session's cookie that changes something needs the header X-CSRF-Token as \
                 GET /api/auth/session gives it, and comes from a page of this site.",
            ),
            AuthError::Insecure => Self::new(
                StatusCode::FORBIDDEN,
                Code::HttpsRequired,
                "The credential was sent over plain http: take it as known to others, and send its successor to https.",
            ),
            AuthError::CredentialsUnknown => {
                Self::busy("API keys and sessions cannot be looked at; try again.")
            }
            AuthError::NoSuchUser => Self::not_found(),
            AuthError::Erased => Self::subject_erased(),
            AuthError::Accounts(error) => error.into(),
        }
    }
}

/// 403: the second factor comes first.
fn second_factor(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, Code::SecondFactorRequired, detail)
}

impl From<AccountLogError> for Problem {
    fn from(error: AccountLogError) -> Self {
        match error {
            AccountLogError::Seal(error) => error.into(),
            AccountLogError::Publish(error) => error.into(),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Wrong => Self::not_signed_in("Address, password or code are wrong."),
            SignInError::NoSuchLink => {
                Self::not_signed_in("The link was used, or has ended: ask for another one.")
            }
            SignInError::TooManyTries { retry_after_s } => {
                Self::rate_limited("Too many failed tries; wait.", retry_after_s)
            }
            SignInError::Busy => Self::busy("Too many people are signing in; try again."),
            SignInError::RegistrationClosed => {
                Self::forbidden("Accounts are made by invitation only, or by an administrator.")
            }
            SignInError::AddressTaken => Self::conflict("The address has an account: sign in."),
            SignInError::TooManyFactors => {
                Self::conflict("There are five second factors already; remove one.")
            }
            SignInError::FactorUnreadable => Self::internal(&error),
            SignInError::Keys(error) => error.into(),
            SignInError::LastWayIn => {
                Self::conflict("There is no password: set one first, or nothing is left by which to sign in.")
            }
            SignInError::NoSuchSession | SignInError::NoSuchFactor => Self::not_found(),
            SignInError::Barred => {
                Self::new(StatusCode::FORBIDDEN, Code::AccountSuspended, "This account may not be used.")
            }
            SignInError::Stale => Self::new(
                StatusCode::FORBIDDEN,
                Code::StaleCredential,
                "This needs a sign-in of the last 15 minutes: sign in again.",
            ),
            SignInError::Field { field, code, detail } => {
                Self::validation(vec![FieldError::at(format!("/{field}"), code, detail)])
            }
            SignInError::Auth(error) => error.into(),
            SignInError::Hash(HashError::OutOfMemory) => {
                Self::busy("Too many people are signing in; try again.")
            }
            SignInError::Hash(error) => Self::internal(&error),
            SignInError::ApiKeys(error) => error.into(),
            SignInError::Entropy(error) => Self::internal(&error),
            SignInError::Log(error) => error.into(),
            SignInError::Store(error) => error.into(),
        }
    }
}

impl From<UsersError> for Problem {
    fn from(error: UsersError) -> Self {
        match error {
            UsersError::ExternalIdTaken => Self::conflict("The external id is another user's."),
            UsersError::Erased => Self::subject_erased(),
            UsersError::RenamedByService => Self::forbidden(
                "Only an admin may change an external id once the account is made: whoever bears it is that user.",
            ),
            UsersError::AdminBarredByService => {
                Self::forbidden("Only an admin may change the status of an account that an admin uses.")
            }
            UsersError::NoSuchUser => Self::not_found(),
            UsersError::StaleCredential => Self::new(
                StatusCode::FORBIDDEN,
                Code::StaleCredential,
                "This needs a credential that was issued (iat) in the last 15 minutes.",
            ),
            UsersError::AdminErasedByService => {
                Self::forbidden("A service erases no account that an admin uses.")
            }
            UsersError::ErasureNotProjected => {
                Self::busy("The erasure is on disk and not projected yet; try again.")
            }
            UsersError::BeingErased => Self::busy("The user is being erased; try again."),
            UsersError::ExportUnderWay { retry_after_s } => {
                Self::rate_limited("An earlier export is still under way.", retry_after_s)
            }
            UsersError::TooManyExports => Self::busy("Too many exports are under way; try again."),
            UsersError::Json(error) => Self::internal(&error),
            UsersError::Accounts(error) => error.into(),
            UsersError::Keys(error) => error.into(),
            UsersError::Publish(error) => error.into(),
            UsersError::Store(error) => error.into(),
        }
    }
}

impl From<ApiKeysError> for Problem {
    fn from(error: ApiKeysError) -> Self {
        match error {
            ApiKeysError::NoSuchKey => Self::not_found(),
            ApiKeysError::Revoked => Self::conflict("The API key was revoked, for ever."),
            ApiKeysError::TooMany => Self::conflict("There are 50 API keys already; revoke one."),
            ApiKeysError::Erased => Self::subject_erased(),
            ApiKeysError::Scopes { .. } => FieldError::at("/scopes", "invalid", error.to_string()).into(),
            ApiKeysError::ServiceBudget => FieldError::at("/budget", "invalid", error.to_string()).into(),
            ApiKeysError::Past => FieldError::at("/expires_at", "in_the_past", error.to_string()).into(),
            ApiKeysError::NotByUser => Self::forbidden("API keys of role service are an admin's alone."),
            ApiKeysError::Turn(_) => Self::busy("Earlier changes are still being recorded; try again."),
            ApiKeysError::Entropy(error) => Self::internal(&error),
            ApiKeysError::Seal(error) => error.into(),
            ApiKeysError::Publish(error) => error.into(),
            ApiKeysError::Store(error) => error.into(),
        }
    }
}

impl From<PlansError> for Problem {
    fn from(error: PlansError) -> Self {
        match error {
            PlansError::UnknownPlan { .. } => {
                FieldError::at("/plan", "unknown_plan", error.to_string()).into()
            }
            PlansError::Turn(_) => Self::busy("Earlier changes are still being recorded; try again."),
            PlansError::NotProjected => Self::busy("An earlier change is not projected yet; try again."),
            PlansError::Log(_) => Self::unavailable("log"),
            PlansError::Publish(error) => error.into(),
            PlansError::Store(error) => error.into(),
        }
    }
}

impl From<UsageError> for Problem {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::Closed(month) => {
                Self::conflict(format!("The month {month} is closed: its statement has been issued."))
            }
            UsageError::Publish(error) => error.into(),
            UsageError::Store(error) => error.into(),
        }
    }
}

impl From<MeteringError> for Problem {
    fn from(error: MeteringError) -> Self {
        match error {
            MeteringError::Limits(error) => error.into(),
            MeteringError::Seal(error) => error.into(),
            MeteringError::Publish(error) => error.into(),
            MeteringError::Store(error) => error.into(),
            MeteringError::Log(_) => Self::unavailable("log"),
            MeteringError::FirstTryUnknown => {
                Self::busy("What became of the first try is not known yet; try again.")
            }
            MeteringError::Panicked => Self::fault("panicked"),
            MeteringError::Turn => Self::busy("Other outcomes are still being recorded; try again."),
            MeteringError::EarlierCompletionUnknown => {
                Self::busy("What became of an earlier outcome is not known yet; try again.")
            }
            MeteringError::NotProjected => {
                Self::busy("Calls recorded lately are not projected yet; try again.")
            }
            MeteringError::NoSuchCall => Self::not_found(),
            MeteringError::TooLate => {
                Self::conflict("The call was made more than an hour ago; it stays as it is.")
            }
            MeteringError::OtherOutcome => Self::conflict("The call is completed with another outcome."),
        }
    }
}

impl IngestError {
    /// The sentence that a client is told of it.
    pub fn into_detail(self) -> String {
        Problem::from(self).detail().to_owned()
    }
}

impl AccountsError {
    /// The sentence that a client is told of it.
    pub fn into_detail(self) -> String {
        Problem::from(self).detail().to_owned()
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Limits(error) => error.into(),
            IngestError::Accounts(error) => error.into(),
            IngestError::Seal(error) => error.into(),
            IngestError::Publish(nats::PublishError::QueueFull) => {
                LimitsError::Shed { retry_after_s: 1 }.into()
            }
            IngestError::Publish(error) => error.into(),
            IngestError::Store(error) => error.into(),
        }
    }
}

impl From<TokensError> for Problem {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::Refused(refused) => {
                FieldError::at("/token", refused_code(refused), refused.to_string()).into()
            }
            TokensError::NameHoldsToken => {
                FieldError::at("/token_name", "contains_token", error.to_string()).into()
            }
            TokensError::NoSuchToken => Self::not_found(),
            TokensError::Unreadable => Self::new(
                StatusCode::CONFLICT,
                Code::TokenUnreadable,
                "The stored token cannot be opened; store it again.",
            ),
            TokensError::Seal(error) => error.into(),
            TokensError::Entropy(error) => Self::internal(&error),
            TokensError::Publish(error) => error.into(),
            TokensError::Store(error) => error.into(),
        }
    }
}

fn refused_code(refused: TokenRefused) -> &'static str {
    match refused {
        TokenRefused::Empty => "empty",
        TokenRefused::TooLong => "too_long",
        TokenRefused::Whitespace | TokenRefused::Control => "invalid_character",
        TokenRefused::OtherKind { .. } => "other_type",
    }
}
