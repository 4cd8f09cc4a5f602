//! Looks for a secret wherever it may have been left: as it is, and as encoders write it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;
use sqlx::PgPool;

/// Of a secret that was cut short so many bytes are still found.
const PIECE_BYTES: usize = 12;
/// Bytes around a find that are shown.
const SHOWN_BYTES: usize = 60;

/// The forms of one secret.
pub(crate) struct Needles(Vec<(String, Finder<'static>)>);

impl Needles {
    /// Pieces of it, its hexadecimal digits in both cases, and its Base64 in both alphabets wherever it may begin.
    pub(crate) fn of(secret: &str) -> Self {
        let bytes = secret.as_bytes();
        let mut forms = Vec::new();
        for (n, piece) in bytes.chunks_exact(PIECE_BYTES).enumerate() {
            forms.push((format!("piece {n}"), piece.to_vec()));
            forms.push((format!("hex of piece {n}"), hex::encode(piece).into_bytes()));
            forms.push((format!("HEX of piece {n}"), hex::encode_upper(piece).into_bytes()));
        }
        for before in 0..3 {
            for (alphabet, engine) in [("standard", STANDARD_NO_PAD), ("URL", URL_SAFE_NO_PAD)] {
                let text = engine.encode([&[0; 2][..before], bytes].concat());
                // The digits that hold bits of what is before it or after it are left out.
                let digits = (8 * before).div_ceil(6)..8 * (before + bytes.len()) / 6;
                let form = text.as_bytes()[digits].to_vec();
                forms.push((format!("{alphabet} Base64 after {before} bytes"), form));
            }
        }
        Self(forms.into_iter().map(|(name, form)| (name, Finder::new(&form).into_owned())).collect())
    }

    /// Places of the secret in these bytes, with what surrounds them.
    pub(crate) fn found_in(&self, bytes: &[u8]) -> Vec<String> {
        let found = self.0.iter().filter_map(|(name, form)| {
            let at = form.find(bytes)?;
            let around =
                at.saturating_sub(SHOWN_BYTES)..(at + form.needle().len() + SHOWN_BYTES).min(bytes.len());
            Some(format!("{name}: {}", bytes[around].escape_ascii()))
        });
        found.collect()
    }

    /// Places of the secret in the files of these directories.
    pub(crate) fn found_under(&self, dir: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for file in files(dir)? {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            // By line, so that every line of a log with it is named.
            let names = bytes.split(|byte| *byte == b'\n').flat_map(|line| self.found_in(line));
            found.extend(names.map(|name| format!("{}: {name}", file.display())));
        }
        Ok(found)
    }

    /// Places of the secret in any row of any table of the ledger.
    pub(crate) async fn found_in_tables(&self, pool: &PgPool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (table, text) in table_texts(pool).await? {
            found.extend(self.found_in(text.as_bytes()).into_iter().map(|name| format!("{table}: {name}")));
        }
        Ok(found)
    }
}

/// The tables that hold this text in any row.
pub(crate) async fn tables_with(pool: &PgPool, text: &str) -> Result<Vec<String>> {
    let texts = table_texts(pool).await?.into_iter();
    Ok(texts.filter(|(_, rows)| rows.contains(text)).map(|(table, _)| table).collect())
}

/// Every table of the ledger with all its rows as text. Bytes are hexadecimal digits in it.
async fn table_texts(pool: &PgPool) -> Result<Vec<(String, String)>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname IN ('public', 'ledger', 'ledger_next')",
    )
    .fetch_all(pool)
    .await?;
    let mut texts = Vec::with_capacity(tables.len());
    for table in tables {
        let rows = format!("SELECT COALESCE(string_agg(t::text, E'\\n'), '') FROM {table} t");
        let text = sqlx::query_scalar(&rows).fetch_one(pool).await?;
        texts.push((table, text));
    }
    Ok(texts)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[test]
fn a_secret_is_found_in_every_form() {
    let secret = "q7Rz0TkW2mXv9LbNc4Hd6JfP8sYgEa1u";
    let needles = Needles::of(secret);
    assert!(needles.found_in(b"nothing of it").is_empty());
    let mut texts = vec![format!("a {secret}."), format!("cut: {}...", &secret[..12])];
    texts.extend([hex::encode(secret), hex::encode_upper(&secret[..15])]);
    for before in ["", "a", "ab", "abc", "{\"k\":\""] {
        for after in ["", "z", "zy", "zyx?>~"] {
            texts.extend(
                [STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|b64| b64.encode([before, secret, after].concat())),
            );
        }
    }
    for text in texts {
        assert!(!needles.found_in(text.as_bytes()).is_empty(), "{text}");
    }
}
