//! Hexadecimal digits in lower case: the one form that sealed values have.

use crate::a256cbc_hs512::OpenError;

/// Value of a byte that is no digit; a digit's value has none of these bits.
const NO_DIGIT: u8 = 0xf0;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Fills `out` with what the digits stand for. One value has one form: upper-case digits are refused, and so is every
/// other number of digits.
pub(crate) fn decode(digits: &[u8], out: &mut [u8]) -> Result<(), OpenError> {
    if digits.len() != 2 * out.len() {
        return Err(OpenError);
    }
    // Looked at once, after the loop, so that the loop has no branches.
    let mut seen = 0;
    let (pairs, _) = digits.as_chunks::<2>();
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    if seen & NO_DIGIT == 0 { Ok(()) } else { Err(OpenError) }
}

/// Appends the digits of `bytes`.
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    let (pairs, _) = out[start..].as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
}

#[cfg(test)]
mod tests {
    use super::{append, decode};
    use crate::OpenError;

    #[test]
    fn every_byte_has_one_form() {
        let all: Vec<u8> = (0..=255).collect();
        let mut digits = Vec::new();
        append(&mut digits, &all);
        assert_eq!(digits, hex::encode(&all).into_bytes());
        let mut read = [0; 256];
        decode(&digits, &mut read).expect("digits");
        assert_eq!(read.as_slice(), all);
        for byte in 0..=255_u8 {
            let digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            assert_eq!(decode(&[byte, b'0'], &mut [0]).is_ok(), digit, "{byte}");
            assert_eq!(decode(&[b'0', byte], &mut [0]).is_ok(), digit, "{byte}");
        }
        for wrong in [&b""[..], b"0", b"000"] {
            assert_eq!(decode(wrong, &mut [0]), Err(OpenError));
        }
    }
}
