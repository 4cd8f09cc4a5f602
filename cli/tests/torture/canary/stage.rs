//! A ledger that is watched while it is called: whoever calls keeps all that is answered.

use anyhow::{Context as _, Result};
use ledger::{Clock, IdSource};
use parking_lot::Mutex;
use rand::distr::{Alphanumeric, SampleString as _};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::{Answer, Client, Request, Role, Token};

use crate::providers::Mood;
use crate::traces::Needles;

const SECRET_CHARACTERS: usize = 36;
/// Ends the secret, so that a mask shows nothing of it.
const TAIL: &str = "tail";

/// The secrets that are looked for.
pub(super) struct Secrets {
    pub(super) secret: String,
    /// Another one, of digits.
    pub(super) number: u64,
    /// Not a secret: it is in the log and in the tables.
    pub(super) control: String,
}

/// A running `dev` at the level trace, and all that it answered.
pub(super) struct Stage {
    pub(super) secrets: Secrets,
    pub(super) client: Client,
    pub(super) jwt_secret: String,
    pub(super) encryption_key: String,
    pub(super) pool: PgPool,
    /// With what was asked.
    pub(super) answers: Mutex<Vec<(String, Vec<u8>)>>,
}

/// Somebody who calls.
pub(super) struct Caller<'a> {
    pub(super) stage: &'a Stage,
    pub(super) client: Client,
}

impl Secrets {
    pub(super) fn new() -> Self {
        let seed = IdSource::new(Clock::system()).random_id().as_u64_pair().1;
        let mut rng = SmallRng::seed_from_u64(seed);
        Self {
            secret: Alphanumeric.sample_string(&mut rng, SECRET_CHARACTERS),
            number: rng.random_range(1_000_000_000_000_000_000..9_000_000_000_000_000_000),
            control: Alphanumeric.sample_string(&mut rng, SECRET_CHARACTERS),
        }
    }

    /// A token of the kind with this prefix.
    pub(super) fn token(&self, prefix: &str, mood: Mood) -> String {
        format!("{prefix}{}{}{TAIL}", self.secret, mood.letter())
    }

    pub(super) fn needles(&self) -> [Needles; 2] {
        [Needles::of(&self.secret), Needles::of(&self.number.to_string())]
    }
}

impl Stage {
    pub(super) fn caller(&self, user: &str, role: Role) -> Caller<'_> {
        let token = Token::new(&Clock::system(), user, role);
        let token = match role {
            Role::User => token.secret(&self.jwt_secret),
            Role::Service | Role::Admin => token.root("k1", &self.encryption_key),
        };
        Caller { stage: self, client: self.client.with_token(token.mint()) }
    }

    pub(super) fn keep(&self, asked: impl Into<String>, answer: impl Into<Vec<u8>>) {
        self.answers.lock().push((asked.into(), answer.into()));
    }
}

impl Caller<'_> {
    /// Sends it and keeps all of the answer.
    pub(super) async fn send(&self, request: Request) -> Result<Answer> {
        let asked = format!("{request:?}");
        let answer = request.send().await?;
        let head = format!("{} {:?}\n", answer.status, answer.headers);
        self.stage.keep(asked, [head.as_bytes(), &answer.body].concat());
        Ok(answer)
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.client.post(path).json(body)).await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.client.get(path)).await
    }

    /// A refusal; which one is others' concern.
    pub(super) async fn refused(&self, what: &str, request: Request) -> Result<()> {
        let answer = self.send(request).await.with_context(|| what.to_owned())?;
        anyhow::ensure!(answer.status.is_client_error(), "{what}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Stores a token and answers its id.
    pub(super) async fn store(&self, kind: &str, token: &str) -> Result<String> {
        let answer = self.post("/api/tokens", &json!({"token_type": kind, "token": token})).await?;
        anyhow::ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        Ok(answer.json()?["id"].as_str().context("no id")?.to_owned())
    }
}
