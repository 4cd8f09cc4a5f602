//! Whole numbers as people and programs write them in JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// 2^52. `serde_json` reads a fraction to within one unit in the last place: below it such an error is a half, and the
/// number refused; from there on it would be another whole number.
const EXACT: f64 = 4_503_599_627_370_496.0;

/// A whole number that is not negative. JSON knows one kind of number, and many a writer puts `1.0` or `1e3` for a
/// count: these are whole numbers too, below 2^52; from there on only digits tell which one is meant.
///
/// `FROM` is the least that its field takes, and said where something else stands there. That a number is not below it
/// is for the field's own type to check, whose error has a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WholeNumber<const FROM: u64>(u64);

impl<const FROM: u64> WholeNumber<FROM> {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<'de, const FROM: u64> Deserialize<'de> for WholeNumber<FROM> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(NumberVisitor::<FROM>).map(Self)
    }
}

struct NumberVisitor<const FROM: u64>;

impl<const FROM: u64> Visitor<'_> for NumberVisitor<FROM> {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a whole number from {FROM}")
    }

    fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number below 2^52 is the same in both"
    )]
    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        if number.fract() == 0.0 && (0.0..EXACT).contains(&number) {
            return Ok(number as u64);
        }
        Err(E::invalid_value(Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<u64, String> {
        let read = serde_json::from_str::<WholeNumber<1>>(json);
        read.map(WholeNumber::get).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (json, number) in [
            ("0", 0),
            ("1", 1),
            ("1.0", 1),
            ("1.000", 1),
            ("-0", 0),
            ("-0.0", 0),
            ("1e3", 1_000),
            ("1.5e1", 15),
            ("1E+2", 100),
            ("100e-2", 1),
            ("900719925474099.0", 900_719_925_474_099),
            ("9007199254740993", 9_007_199_254_740_993),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(read(json), Ok(number), "{json}");
        }
    }

    proptest! {
        #[test]
        fn no_number_is_read_as_another(number in 0..=1_u64 << 53, zeros in 1_usize..12) {
            let read = read(&format!("{number}.{}", "0".repeat(zeros)));
            prop_assert!(read.is_err() || read == Ok(number), "{number}: {read:?}");
        }
    }

    #[test]
    fn what_is_no_whole_number_is_told_so() {
        for json in [
            "1.5",
            "-1",
            "-1.0",
            "1e-1",
            "1e300",
            "4503599627370496.0",
            "9007199254740991.0",
            "9007199254740992.0",
            "9007199254740993.0",
            "18446744073709551616",
            "\"5\"",
            "true",
            "null",
            "[1]",
            "{}",
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains("expected a whole number from 1"), "{json}: {error}");
        }
        assert!(read("1e999").is_err());
    }
}
