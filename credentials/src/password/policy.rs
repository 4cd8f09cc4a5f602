//! Which passwords are taken: by how hard they are to guess, not by what they are composed of (NIST SP 800-63B §3.1.1).

use zxcvbn::Score;
use zxcvbn::feedback::Warning;

use super::Password;

/// Least characters of a new password.
const CHARS_MIN: usize = 8;
/// Characters that are looked at: the time goes with their square. What is hard to guess by them stays so.
const CHARS_JUDGED: usize = 100;
/// Most words of the user's that are looked for, and characters of each.
const WORDS_MAX: usize = 32;
const WORD_CHARS_MAX: usize = 100;
/// A shorter piece of a word is in too many passwords to say anything.
const PIECE_CHARS_MIN: usize = 3;

/// Which passwords are taken: 8 characters at least, and by zxcvbn's measure of 0 to 4 (Wheeler, USENIX Security 2016)
/// 3 or more. The measure knows 30,000 well-known passwords and words of English, and dates, rows of keys, repetitions.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    least: Score,
}

/// Reason why a password is too weak. It never holds the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// It is short.
    #[error("A password has at least {CHARS_MIN} characters.")]
    Short,
    /// It is among the passwords that are tried first, or like one of them.
    #[error("This is one of the passwords that are tried first, or much like one.")]
    WellKnown,
    /// Its user's name or address is most of it.
    #[error("Your name or address makes this password easy to guess.")]
    Personal,
    /// It is a word or a name.
    #[error(
        "Single words and names are easy to guess; several that have nothing to do with each other are not."
    )]
    Word,
    /// It repeats itself, or goes along a sequence or a row of keys.
    #[error("Repetitions, sequences like abc or 6543 and rows of keys are easy to guess.")]
    Pattern,
    /// It is a date or a year.
    #[error("Dates and years are easy to guess.")]
    Date,
    /// It is guessed soon, for no single reason.
    #[error("This password is easy to guess; a few more words make it a strong one.")]
    Guessable,
}

impl Default for Policy {
    fn default() -> Self {
        Self { least: Score::Three }
    }
}

impl Policy {
    /// Whether a new password is strong enough. `words` are what whoever knows its user would try: address, name. It is
    /// work for the threads in which passwords are hashed: a text that is made for it takes some tenths of a second.
    pub fn check(self, password: &Password, words: &[&str]) -> Result<(), Weak> {
        let text = password.expose();
        if text.chars().take(CHARS_MIN).count() < CHARS_MIN {
            return Err(Weak::Short);
        }
        let judged = beginning(text, CHARS_JUDGED);
        let words = pieces(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let entropy = zxcvbn::zxcvbn(judged, &words);
        if entropy.score() >= self.least {
            return Ok(());
        }
        // The library takes its user's words for passwords when it names its reason.
        if !words.is_empty() && zxcvbn::zxcvbn(judged, &[]).score() >= self.least {
            return Err(Weak::Personal);
        }
        let warning = entropy.feedback().and_then(zxcvbn::feedback::Feedback::warning);
        Err(warning.map_or(Weak::Guessable, Weak::of))
    }
}

impl Weak {
    fn of(warning: Warning) -> Self {
        match warning {
            Warning::ThisIsATop10Password
            | Warning::ThisIsATop100Password
            | Warning::ThisIsACommonPassword
            | Warning::ThisIsSimilarToACommonlyUsedPassword => Self::WellKnown,
            Warning::StraightRowsOfKeysAreEasyToGuess
            | Warning::ShortKeyboardPatternsAreEasyToGuess
            | Warning::RepeatsLikeAaaAreEasyToGuess
            | Warning::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess
            | Warning::SequencesLikeAbcAreEasyToGuess => Self::Pattern,
            Warning::RecentYearsAreEasyToGuess | Warning::DatesAreOftenEasyToGuess => Self::Date,
            Warning::AWordByItselfIsEasyToGuess
            | Warning::NamesAndSurnamesByThemselvesAreEasyToGuess
            | Warning::CommonNamesAndSurnamesAreEasyToGuess => Self::Word,
        }
    }
}

/// The words, and what they are made of: of `alice@my-shop.example` also `alice`, `my-shop.example`, `my-shop`, `shop`
/// and `example`. Always in the same order, which the measure heeds.
fn pieces(words: &[&str]) -> Vec<String> {
    let is_blank = |letter: char| letter == '@' || letter.is_whitespace();
    let mut pieces: Vec<String> = Vec::new();
    for word in words.iter().map(|word| beginning(word, WORD_CHARS_MAX)) {
        let parts = word.split(is_blank).chain(word.split(|letter| letter == '.' || is_blank(letter)));
        let parts = parts.chain(word.split(|letter: char| !letter.is_alphanumeric()));
        for piece in std::iter::once(word).chain(parts).map(str::to_lowercase) {
            let is_wanted = piece.chars().nth(PIECE_CHARS_MIN - 1).is_some() && !pieces.contains(&piece);
            if is_wanted && pieces.len() < WORDS_MAX {
                pieces.push(piece);
            }
        }
    }
    pieces
}

fn beginning(text: &str, chars_max: usize) -> &str {
    text.char_indices().nth(chars_max).map_or(text, |(end, _)| &text[..end])
}
