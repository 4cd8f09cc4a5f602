//! Numbers as logs write them, made whole exactly: a binary fraction would round 1.0005 s down.

/// A number made whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// The number.
    pub(super) value: u64,
    /// Whether a fraction was rounded.
    pub(super) is_rounded: bool,
}

/// The most digits that a number may have, and the greatest exponent: more is no measure of anything.
const MAX_DIGITS: usize = 60;

/// A decimal number × 10^`shift`, rounded half up; none when the text is no number from 0, or the result exceeds 64
/// bits.
pub(super) fn scaled(text: &str, shift: i32) -> Option<Whole> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let is_bounded = digits.len() <= MAX_DIGITS && exponent.unsigned_abs() as usize <= MAX_DIGITS;
    if digits.is_empty() || !is_bounded || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let point = i32::try_from(whole.len()).ok()? + exponent + shift;
    let length = usize::try_from(point).unwrap_or(0);
    let padding = usize::try_from(-point).unwrap_or(0);
    // Zeros in front where the point lies before the first digit, behind where it lies beyond the last.
    let padded = format!("{}{digits:0<length$}", "0".repeat(padding));
    let (whole, fraction) = padded.split_at(length);
    let value = whole.trim_start_matches('0');
    let value: u64 = if value.is_empty() { 0 } else { value.parse().ok()? };
    let is_up = fraction.bytes().next().is_some_and(|digit| digit >= b'5');
    Some(Whole {
        value: value.checked_add(u64::from(is_up))?,
        is_rounded: fraction.bytes().any(|digit| digit != b'0'),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fractions_are_rounded_half_up_and_exactly() {
        for (text, shift, value, is_rounded) in [
            ("0", 0, 0, false),
            ("16.260", 0, 16, true),
            ("0.859", 0, 1, true),
            ("0.5", 0, 1, true),
            ("0.49999", 0, 0, true),
            ("11.920731000000046", 0, 12, true),
            ("1.0005", 3, 1_001, true),
            ("0.0425", 3, 43, true),
            ("0.050", 3, 50, false),
            ("200.0", 0, 200, false),
            ("1500", -3, 2, true),
            ("1499", -3, 1, true),
            ("250000", -6, 0, true),
            ("500000", -6, 1, true),
            ("4", -9, 0, true),
            ("1e3", 0, 1_000, false),
            ("1.5E-3", 3, 2, true),
            ("5e-1", 0, 1, true),
            (".5", 0, 1, true),
            ("5.", 0, 5, false),
            ("007", 0, 7, false),
            ("18446744073709551615", 0, u64::MAX, false),
        ] {
            assert_eq!(scaled(text, shift), Some(Whole { value, is_rounded }), "{text} × 10^{shift}");
        }
    }

    #[test]
    fn what_is_no_number_from_0_is_none() {
        let long = "9".repeat(61);
        for text in
            ["", ".", "-1", "+1", "1,5", "x", "NaN", "1e", "1e99", "1e-99", "0x1", " 1", "1.5.2", &long, "٣"]
        {
            assert_eq!(scaled(text, 0), None, "{text}");
        }
        assert_eq!(scaled("18446744073709551616", 0), None);
        assert_eq!(scaled("18446744073709551615.5", 0), None);
        assert_eq!(scaled("18446744073709551615", 1), None);
    }

    proptest! {
        #[test]
        fn whole_numbers_stay_and_thousandths_round(number in 0..u64::MAX / 10_000) {
            let exact = Whole { value: number, is_rounded: false };
            prop_assert_eq!(scaled(&number.to_string(), 0), Some(exact));
            let rounded = scaled(&number.to_string(), -3).map(|whole| whole.value);
            prop_assert_eq!(rounded, Some((number + 500) / 1_000));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.eE+-]{0,70}", shift in -9..9) {
            let _ = scaled(&text, shift);
        }
    }
}
