//! Codes of an authenticator app: TOTP (RFC 6238) with what all apps take: SHA-1, 6 digits, 30 seconds.

use std::fmt;

use fast_qr::{ECL, QRBuilder};
use totp_rs::{Algorithm, Builder};

/// Bytes of a secret: as many as SHA-1 gives, as RFC 4226 §4 recommends.
pub const TOTP_SECRET_BYTES: usize = 20;

const DIGITS: u8 = 6;
/// Seconds for which a code is the current one.
const STEP_SECONDS: u64 = 30;
/// Light modules around a QR code, which readers want (ISO/IEC 18004 §6.3.8).
const QUIET: usize = 4;
/// Most characters of an issuer's name, which the address holds twice, and of an account's. However they are escaped,
/// they fit into a QR code.
const ISSUER_CHARS_MAX: usize = 40;
const ACCOUNT_CHARS_MAX: usize = 100;

/// Second factor of one user. Its secret is zeroed when it is dropped, and shown by [`Totp::otpauth_url`] alone.
pub struct Totp(totp_rs::Totp);

/// A text that is too long for a QR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is too long for a QR code")]
pub struct TooLongForQr;

impl Totp {
    /// The factor with this secret.
    pub fn new(secret: [u8; TOTP_SECRET_BYTES]) -> Self {
        Self(builder(secret).build_noncompliant())
    }

    /// Address by which an app takes the secret over, of the form that Google Authenticator made usual. The issuer's
    /// name is cut at 40 characters, the account's at 100; a colon in them, which separates the two, is a blank.
    pub fn otpauth_url(&self, issuer: &str, account: &str) -> String {
        let name = |text: &str, chars_max| -> String {
            let text = if text.is_empty() { "-" } else { text };
            let plain = |letter: char| if letter == ':' || letter.is_control() { ' ' } else { letter };
            text.chars().map(plain).take(chars_max).collect()
        };
        let named = builder(self.0.secret().as_bytes())
            .with_issuer(Some(name(issuer, ISSUER_CHARS_MAX)))
            .with_account_name(name(account, ACCOUNT_CHARS_MAX))
            .build_noncompliant();
        named.to_url().expect("the account has a name, and it holds no colon")
    }

    /// The step of time whose code this is: the current one, or the one before it, for who types slowly or has a clock
    /// that is late. `now` is in seconds since 1970. None ahead is taken, nor one at or before `last_step`, so that a
    /// code works once (RFC 6238 §5.2); the caller keeps the answer as the next `last_step`.
    pub fn matched_step(&self, code: &str, now: i64, last_step: i64) -> Option<i64> {
        let now = u64::try_from(now).ok()?;
        // Both are looked at, whichever it is, so that the time does not tell.
        let [current, before] =
            [Some(now), now.checked_sub(STEP_SECONDS)].map(|time| self.0.check(code, time?));
        [current, before]
            .into_iter()
            .flatten()
            .filter_map(|step| i64::try_from(step).ok())
            .find(|step| *step > last_step)
    }
}

impl fmt::Debug for Totp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Totp(…)")
    }
}

/// The library's skew reaches ahead as far as back, so it has none here.
fn builder(secret: impl Into<totp_rs::Secret>) -> Builder {
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP_SECONDS)
        .with_skew(0)
        .with_secret(secret)
}

/// The text as a QR code, as an SVG picture: black on white whatever the page's colours are, with the light margin
/// that readers want, of no size of its own, without scripts or styles, as a strict Content-Security-Policy asks.
pub fn qr_svg(text: &str) -> Result<String, TooLongForQr> {
    let code = QRBuilder::new(text).ecl(ECL::M).build().map_err(|_| TooLongForQr)?;
    let side = code.size + 2 * QUIET;
    let mut path = String::new();
    for y in 0..code.size {
        let mut x = 0;
        for run in code[y].chunk_by(|one, next| one.value() == next.value()) {
            if run[0].value() {
                let length = run.len();
                path.extend([format!("M{} {}h{length}v1h-{length}z", x + QUIET, y + QUIET)]);
            }
            x += run.len();
        }
    }
    let head = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" shape-rendering="crispEdges">"#
    );
    let light = format!(r##"<path fill="#fff" d="M0 0h{side}v{side}H0z"/>"##);
    Ok(format!(r##"{head}{light}<path fill="#000" d="{path}"/></svg>"##))
}

#[cfg(test)]
mod tests;
