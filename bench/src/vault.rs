//! Sealing and opening on one core.

use std::hint::black_box;
use std::time::Instant;

use anyhow::anyhow;
use ledger::{Clock, IdSource};
use vault::{DekId, KeyRing, OsEntropy, RootKey, SecretText, TokenKind};

use crate::report::{Report, Target};

const ROUNDS: u32 = 500_000;
/// Length of a token.
const TOKEN_BYTES: usize = 100;

/// Measures tokens of 100 bytes, sealed and opened by one thread.
pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("vault: {ROUNDS} tokens of {TOKEN_BYTES} bytes");
    let ids = IdSource::new(Clock::system());
    let (user, token_id) = (ids.random_id(), ids.random_id());
    let ring = KeyRing::new("k1".parse()?, &RootKey::generate(&OsEntropy)?);
    let (key, _) = ring.new_data_key(user, DekId::first(), &OsEntropy)?;
    let token = SecretText::new("t".repeat(TOKEN_BYTES));
    let start = Instant::now();
    let mut sealed = key.seal_token(TokenKind::Github, token_id, &token, &OsEntropy)?;
    for _ in 1..ROUNDS {
        sealed = key.seal_token(TokenKind::Github, token_id, black_box(&token), &OsEntropy)?;
    }
    report.hold("seal_per_s", f64::from(ROUNDS) / start.elapsed().as_secs_f64(), Target::AtLeast(200_000.0));
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let opened = key.open_token(TokenKind::Github, token_id, black_box(&sealed));
        black_box(opened.map_err(|_| anyhow!("what was sealed does not open"))?);
    }
    report.hold("open_per_s", f64::from(ROUNDS) / start.elapsed().as_secs_f64(), Target::AtLeast(200_000.0));
    Ok(())
}
