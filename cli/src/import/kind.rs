//! Kinds of files, told by their first bytes and not by their names.

use std::fmt;

/// Bytes that are enough to tell: a tar archive says what it is in byte 257.
pub(super) const HEAD_BYTES: usize = 512;

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines, as far as can be seen.
    Text,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Nothing that has lines.
    Other(OtherKind),
}

/// Kind of a file that holds no lines, or holds them in a way that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherKind {
    name: &'static str,
    advice: &'static str,
}

impl std::error::Error for OtherKind {}

impl fmt::Display for OtherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {}, not a log of lines: {}", self.name, self.advice)
    }
}

const UNPACK: &str = "unpack it first";
const CONVERT: &str = "convert it to UTF-8 first";
const ANOTHER: &str = "give the log itself";

/// First bytes by which other kinds are known. A longer one stands before a shorter one that it begins with.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", ANOTHER),
    (b"\xfd7zXZ\0", "an xz file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", UNPACK),
    (b"\x5d\0\0", "an lzma file", UNPACK),
    (b"\x89LZO\0", "an lzop file", UNPACK),
    (b"LZIP", "an lzip file", UNPACK),
    (b"\x1f\x9d", "a file of compress (.Z)", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", UNPACK),
    (b"\xff\xfe\0\0", "text in UTF-32", CONVERT),
    (b"\0\0\xfe\xff", "text in UTF-32", CONVERT),
    (b"\xff\xfe", "text in UTF-16", CONVERT),
    (b"\xfe\xff", "text in UTF-16", CONVERT),
    (b"\xd4\xc3\xb2\xa1", "a capture of packets (pcap)", ANOTHER),
    (b"\xa1\xb2\xc3\xd4", "a capture of packets (pcap)", ANOTHER),
    (b"\x4d\x3c\xb2\xa1", "a capture of packets (pcap)", ANOTHER),
    (b"\xa1\xb2\x3c\x4d", "a capture of packets (pcap)", ANOTHER),
    (b"\x0a\x0d\x0d\x0a", "a capture of packets (pcapng)", ANOTHER),
    (b"LPKSHHRH", "a journal of systemd", "write its lines by journalctl -o cat first"),
    (b"SQLite format 3\0", "an SQLite database", ANOTHER),
    (b"PAR1", "a Parquet file", ANOTHER),
    (b"Obj\x01", "an Avro file", ANOTHER),
    (b"%PDF-", "a PDF document", ANOTHER),
    (b"\x7fELF", "a program", ANOTHER),
    (b"\x89PNG", "a picture", ANOTHER),
    (b"\xff\xd8\xff", "a picture", ANOTHER),
];

const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

impl Kind {
    /// The kind of a file that begins so, with [`HEAD_BYTES`] or its whole content.
    pub(super) fn of(head: &[u8]) -> Self {
        let other = |name, advice| Self::Other(OtherKind { name, advice });
        if head.starts_with(b"\x1f\x8b") {
            return Self::Gzip;
        }
        // A frame of zstd, or one that is to be skipped, with which parallel compressors begin.
        if head.starts_with(ZSTD) || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            return Self::Zstd;
        }
        if let Some((_, name, advice)) = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic)) {
            return other(name, advice);
        }
        if head.get(257..262) == Some(b"ustar") {
            return other("a tar archive", UNPACK);
        }
        match head.split(|byte| *byte == 0).count() - 1 {
            0 => Self::Text,
            zeros if zeros * 3 > head.len() && head.iter().any(|byte| *byte != 0) && is_alternating(head) => {
                other("text in UTF-16", CONVERT)
            }
            _ if head[0] == 0 => other(
                "a file that begins with zeros, as logs do that are cut while they are written",
                "take the zeros out first (tr -d '\\000')",
            ),
            _ => other("a binary file", ANOTHER),
        }
    }
}

/// Whether the zeros stand at every second place alone, as in UTF-16 of ASCII.
fn is_alternating(head: &[u8]) -> bool {
    let zeros_at = |offset: usize| head.iter().skip(offset).step_by(2).filter(|byte| **byte == 0).count();
    zeros_at(0) == 0 || zeros_at(1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn files_are_known_by_their_first_bytes() {
        let says = |head: &[u8]| match Kind::of(head) {
            Kind::Other(other) => other.to_string(),
            kind => format!("{kind:?}"),
        };
        for text in [&b""[..], b"192.0.2.1 - -", b"{}", b"\xef\xbb\xbf{}", b"\xe9t\xe9", b"#Fields: x"] {
            assert_eq!(says(text), "Text", "{text:?}");
        }
        assert_eq!(says(b"\x1f\x8b\x08\0"), "Gzip");
        assert_eq!(says(b"\x28\xb5\x2f\xfd\0"), "Zstd");
        assert_eq!(says(b"\x50\x2a\x4d\x18\x04\0"), "Zstd");
        let mut tar = vec![0; HEAD_BYTES];
        tar[..3].copy_from_slice(b"log");
        tar[257..262].copy_from_slice(b"ustar");
        for (head, expected) in [
            (b"PK\x03\x04\x14\0".to_vec(), "a zip archive"),
            (b"\xfd7zXZ\0\0\x04".to_vec(), "an xz file"),
            (b"BZh91AY&SY".to_vec(), "a bzip2 file"),
            (b"\xd4\xc3\xb2\xa1\x02\0".to_vec(), "a capture of packets"),
            (b"\x0a\x0d\x0d\x0a\0\0".to_vec(), "a capture of packets"),
            (utf16("\u{feff}192", u16::to_le_bytes), "text in UTF-16"),
            (utf16("\u{feff}192", u16::to_be_bytes), "text in UTF-16"),
            (utf16("192.0.2.1 - -", u16::to_le_bytes), "text in UTF-16"),
            (utf16("192.0.2.1 - -", u16::to_be_bytes), "text in UTF-16"),
            (tar, "a tar archive"),
            ([&[0; 6][..], b"192.0.2.1 - -"].concat(), "begins with zeros"),
            (vec![0; 512], "begins with zeros"),
            (b"\x01\x02\0\x03abc".to_vec(), "a binary file"),
            (b"\x7fELF\x02".to_vec(), "a program"),
        ] {
            assert!(says(&head).contains(expected), "{head:?}: {}", says(&head));
        }
    }
}
