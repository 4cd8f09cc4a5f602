//! Length-prefixed fields.

/// Length-prefixed fields: for each field its length in bytes as a big-endian `u32`, then the bytes.
///
/// Unlike joining with a separator this is injective: no two lists of fields give the same bytes. Ids and names go in
/// as UTF-8 text, UUIDs in their 36-character lower-case form.
///
/// # Panics
///
/// When a field has 4 GiB or more; every field here is bounded far below that.
pub fn lp(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.iter().map(|field| 4 + field.len()).sum());
    for field in fields {
        let length = u32::try_from(field.len()).expect("a length-prefixed field is shorter than 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::lp;

    #[test]
    fn prefixes_each_field_with_its_length() {
        assert_eq!(lp(&[b"ab", b"", b"c"]), b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c");
        assert_ne!(lp(&[b"ab", b"c"]), lp(&[b"a", b"bc"]));
        assert_eq!(lp(&[]), b"");
    }
}
