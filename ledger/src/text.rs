//! Bounds on text that comes in, and the error that every refused value gives.

/// Why a value from outside was refused: a stable code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// Stable `snake_case` code, as listed in the `OpenAPI` document.
    pub code: &'static str,
    /// One sentence that names the rule; never the whole refused value.
    pub detail: String,
}

impl Invalid {
    /// An error with this stable code and sentence.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Longest id, name or source, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest user agent kept, in bytes; longer ones are cut.
pub const MAX_USER_AGENT_BYTES: usize = 256;

/// Longest reason that somebody gives for what they did, in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;

/// Accepts text of 1..=`max_bytes` bytes without control or bidi-override characters.
///
/// # Errors
/// `empty`, `too_long` or `invalid_characters`.
pub fn check_text(what: &str, text: &str, max_bytes: usize) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::new("empty", format!("{what} must not be empty")));
    }
    if text.len() > max_bytes {
        return Err(Invalid::new("too_long", format!("{what} must be at most {max_bytes} bytes")));
    }
    if has_forbidden(text) {
        return Err(Invalid::new(
            "invalid_characters",
            format!("{what} must not contain control or bidirectional override characters"),
        ));
    }
    Ok(())
}

/// [`check_text`] for ids, names and sources: at most [`MAX_NAME_BYTES`], and something in it that can be seen. An id
/// of blanks alone is what a missing variable leaves behind, and everybody's calls would be one user's.
///
/// # Errors
/// Those of [`check_text`], or `blank`.
pub fn check_name(what: &str, text: &str) -> Result<(), Invalid> {
    check_text(what, text, MAX_NAME_BYTES)?;
    if is_blank(text) {
        return Err(Invalid::new("blank", format!("{what} must not consist of blanks alone")));
    }
    Ok(())
}

/// Whether nothing can be seen of the text.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_blank_character)
}

/// Whether nothing can be seen of the character: white space, and those of Unicode's default ignorable code points and
/// fillers that are not forbidden anyway.
fn is_blank_character(character: char) -> bool {
    character.is_whitespace()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether the text holds a character that [`is_forbidden`].
pub fn has_forbidden(text: &str) -> bool {
    // Almost all text is printable ASCII, which needs no decoding of characters.
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return false;
    }
    text.chars().any(is_forbidden)
}

/// Control characters (C0, DEL, C1), the line and paragraph separators, and the characters that reorder text, with
/// which a name can be made to read as another one (Trojan Source, CVE-2021-42574).
pub fn is_forbidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The longest prefix of at most `max_bytes` bytes that ends between two characters.
pub fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// A user agent as it is recorded: forbidden characters replaced, cut to [`MAX_USER_AGENT_BYTES`]. Clients choose
/// this header freely and nobody reads it but people, so an odd one is no reason to refuse a call.
pub fn clean_user_agent(text: &str) -> std::borrow::Cow<'_, str> {
    if has_forbidden(text) {
        let clean: String =
            text.chars().map(|c| if is_forbidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect();
        return std::borrow::Cow::Owned(cut(&clean, MAX_USER_AGENT_BYTES).to_owned());
    }
    std::borrow::Cow::Borrowed(cut(text, MAX_USER_AGENT_BYTES))
}

/// Deserializes a string through its type's `FromStr`.
pub(crate) fn deserialize_from_str<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err = Invalid>,
{
    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<&'static str> {
        check_name("a name", text).err().map(|error| error.code)
    }

    #[test]
    fn text_is_bounded_in_bytes() {
        assert_eq!(code(""), Some("empty"));
        assert_eq!(code(&"a".repeat(255)), None);
        assert_eq!(code(&"a".repeat(256)), Some("too_long"));
        assert_eq!(code(&"ä".repeat(128)), Some("too_long"));
    }

    #[test]
    fn a_name_of_blanks_alone_is_none() {
        for blank in [
            " ",
            "   ",
            "\u{a0}",
            "\u{1680}",
            "\u{2003}",
            "\u{202f}",
            "\u{205f}",
            "\u{3000}",
            " \u{200b} ",
            "\u{feff}",
            "\u{2060}",
            "\u{ad}",
            "\u{3164}",
            "\u{2800}",
            "\u{e0020}",
            "\u{200d}\u{fe0f}",
        ] {
            assert_eq!(code(blank), Some("blank"), "{blank:?}");
        }
        for good in [" a", "a ", "\u{3000}.", "0", "-", "👩\u{200d}🔬"] {
            assert_eq!(code(good), None, "{good:?}");
        }
    }

    #[test]
    fn text_cannot_hide_what_it_says() {
        for good in ["a b", "größe", "名前", "🦀", "a\u{200d}b", "\u{fffd}"] {
            assert_eq!(code(good), None, "{good:?}");
        }
        for bad in
            ["\0", "a\n", "\u{7f}", "\u{9f}", "a\u{202e}b", "\u{2066}", "\u{200f}", "\u{2028}", "\u{61c}"]
        {
            assert_eq!(code(bad), Some("invalid_characters"), "{bad:?}");
        }
    }

    #[test]
    fn a_user_agent_is_cleaned_and_cut_between_characters() {
        assert_eq!(clean_user_agent("curl/8"), "curl/8");
        assert_eq!(clean_user_agent("a\u{202e}\0b"), "a\u{fffd}\u{fffd}b");
        let long = "ä".repeat(600);
        assert_eq!(clean_user_agent(&long).len(), 256);
        let long = format!("a{long}");
        assert_eq!(clean_user_agent(&long).len(), 255);
        let long = format!("\0{long}");
        assert!(clean_user_agent(&long).len() <= 256);
    }
}
