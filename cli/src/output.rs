//! Texts for a terminal.

use std::fmt::Write as _;
use std::io;

/// The text with everything escaped that a terminal would obey or hide: control characters and bidi overrides.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let bidi =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || bidi {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// An error with every cause, in one line. What ends with its cause already does not say it twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

/// Tells whether the reader of a list has seen enough and left, as `head` does: nothing failed.
pub(crate) fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::{chain, printable};

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("refused").context("no answer: refused").context("cannot connect");
        assert_eq!(chain(&error), "cannot connect: no answer: refused");
    }

    #[test]
    fn a_terminal_is_never_told_what_to_do() {
        assert_eq!(printable("a\u{1b}[31m\u{202e}é\n"), "a\\u{1b}[31m\\u{202e}é\\u{a}");
    }
}
