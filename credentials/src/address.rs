//! E-mail addresses as names of accounts: which are taken, and which are the same.
//!
//! Syntax is that of the crate `email_address` (RFC 5321, RFC 6531), without what no account needs: quoted local parts,
//! comments, addresses of hosts by number. Two addresses are one account when their canonical forms are the same. An
//! address whose canonical form is ASCII differs from it in case alone: nobody gets to another one's account, or takes
//! its name, by letters that become ASCII on the way.

use std::fmt;

use email_address::{EmailAddress, Options};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Most bytes of an address (RFC 5321 §4.5.3.1.3, without the brackets), in both of its forms.
pub const MAX_ADDRESS_BYTES: usize = 254;

/// An e-mail address.
#[derive(Clone)]
pub struct Address {
    canonical: String,
    written: String,
}

/// Reason why a text is no address here. It does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has not the form of an address.
    #[error("an e-mail address has the form name@example.org")]
    Form,
    /// It is too long for mail.
    #[error("an e-mail address has at most {MAX_ADDRESS_BYTES} bytes, 64 of them before the @")]
    TooLong,
    /// Its domain cannot be one.
    #[error("what follows the @ is no name of a domain")]
    Domain,
    /// It holds letters that look like others, or are not seen at all.
    #[error("the e-mail address holds characters that are taken for others")]
    LookAlike,
}

impl Address {
    /// Reads an address. There is nothing around it: no blanks, no name of a person.
    ///
    /// In the canonical form the domain is lower case and in ASCII (UTS #46, non-transitional), as DNS has it. The
    /// local part is lower case and in Unicode's form NFC: its case is the recipient's to tell apart (RFC 5321 §2.4),
    /// but nobody does, and `Alice@…` who signs in as `alice@…` is one person. Dots and what follows a plus sign stay,
    /// for elsewhere they are other mailboxes.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_ADDRESS_BYTES {
            return Err(AddressError::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Form)?;
        if local.contains('"') || domain.starts_with('[') {
            return Err(AddressError::Form);
        }
        if !text.chars().all(|letter| letter.is_ascii() || is_plain(letter)) {
            return Err(AddressError::LookAlike);
        }
        let canonical = format!("{}@{}", lower(local), ascii(domain)?);
        if canonical.len() > MAX_ADDRESS_BYTES {
            return Err(AddressError::TooLong);
        }
        let options =
            Options { allow_display_text: false, allow_domain_literal: false, ..Options::default() };
        match EmailAddress::parse_with_options(&canonical, options) {
            Ok(_) => Ok(Self { canonical, written: text.to_owned() }),
            Err(email_address::Error::LocalPartTooLong) => Err(AddressError::TooLong),
            Err(_) => Err(AddressError::Form),
        }
    }

    /// The canonical form, by which accounts are found.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The address as it was written, for people to read.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Address {}

/// Shows nothing: an address is a person's, and a log is no place for it.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// Whether a character that is not ASCII is a letter, digit or mark that stands for itself alone: not one that is seen
/// as nothing, and none that Unicode holds to be a form of another (NFKC), such as `ſ`, full-width letters and the
/// Kelvin sign. Cyrillic `а` is a letter of its own: such an address is another one, and stays another.
fn is_plain(letter: char) -> bool {
    let is_word = letter.is_alphanumeric() || is_combining_mark(letter);
    is_word && !is_unseen(letter) && std::iter::once(letter).nfkc().eq([letter])
}

/// Letters and marks of Unicode's `Default_Ignorable_Code_Point`.
fn is_unseen(letter: char) -> bool {
    matches!(
        letter,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Letter by letter, for a word's last sigma depends on the letters around it; both of them are one here.
fn lower(local: &str) -> String {
    let composed: String = local.nfc().collect();
    composed
        .chars()
        .flat_map(char::to_lowercase)
        .map(|letter| if letter == 'ς' { 'σ' } else { letter })
        .nfc()
        .collect()
}

fn ascii(domain: &str) -> Result<String, AddressError> {
    let ascii = Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| AddressError::Domain)?;
    // A name whose last label is a number is an address of IPv4 (WHATWG URL, "ends in a number").
    let last = ascii.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|first: char| first.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x"));
    // What was not ASCII has become another name, and not somebody's that is.
    let is_own = domain.split('.').count() == ascii.split('.').count()
        && domain
            .split('.')
            .zip(ascii.split('.'))
            .all(|(label, new)| label.is_ascii() || new.starts_with("xn--"));
    if is_number {
        Err(AddressError::Domain)
    } else if is_own {
        Ok(ascii.into_owned())
    } else {
        Err(AddressError::LookAlike)
    }
}

#[cfg(test)]
mod tests;
