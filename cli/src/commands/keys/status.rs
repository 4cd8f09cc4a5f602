//! `usage-ledger keys status`: the root keys that are configured or known.

use std::process::ExitCode;

use anyhow::Result;
use data_keys::InUse;
use sqlx::Connection as _;
use vault::{KeyCheck, RootKeyId};

use crate::config::Settings;

/// Prints a line for each root key that is configured or known, and why the configured ones can't be used, if so.
pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let mut conn = store::connect(settings.database_url()?, store::Schema::Live).await?;
    let known = data_keys::in_use(&mut conn).await?;
    conn.close().await.map_err(store::Error::from)?;
    let ring = settings.keys().ring();
    let configured: Vec<(RootKeyId, KeyCheck)> = match &ring {
        Ok(ring) => ring.checks().map(|(kid, check)| (kid.clone(), check)).collect(),
        Err(_) => Vec::new(),
    };
    let current = ring.as_ref().ok().map(vault::KeyRing::current);
    println!("{:<32} {:<16} {:>10}  configured", "key", "check value", "data keys");
    for key in merged(known, &configured) {
        let found = configured.iter().find(|(kid, _)| *kid == key.kid).map(|(_, check)| *check);
        let says = match (found, key.check) {
            (None, _) => "no",
            (Some(found), Some(expected)) if found != expected => "another key of this name",
            (Some(_), _) if current == Some(&key.kid) => "current",
            (Some(_), _) => "previous",
        };
        let check = key.check.or(found).map_or_else(String::new, |check| check.to_string());
        println!("{:<32} {:<16} {:>10}  {says}", key.kid.as_str(), check, key.data_keys);
    }
    ring?;
    Ok(ExitCode::SUCCESS)
}

/// The root keys that the database knows, and the configured ones that it does not know yet.
fn merged(mut known: Vec<InUse>, configured: &[(RootKeyId, KeyCheck)]) -> Vec<InUse> {
    for (kid, _) in configured {
        if known.iter().all(|key| key.kid != *kid) {
            known.push(InUse { kid: kid.clone(), check: None, data_keys: 0 });
        }
    }
    known.sort_by(|a, b| a.kid.cmp(&b.kid));
    known
}
