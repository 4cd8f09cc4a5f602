//! The lines of a file, each with its number and an id that is the same whenever the file is read again.

use std::collections::HashMap;
use std::io::{self, BufRead};

use sha2::{Digest, Sha256};

/// Longest line that is read; of a longer one only the number is told.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its text without the line end; none when it is too long.
    pub(crate) text: Option<&'a [u8]>,
    /// Whether it has a line end; the last one may have none.
    pub(crate) is_ended: bool,
}

/// Reads lines in a bounded buffer.
pub(crate) struct Lines<R> {
    reader: R,
    max_bytes: usize,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self::bounded(reader, MAX_LINE_BYTES)
    }

    /// Reads lines of at most `max_bytes`; of a longer one only the number is told.
    pub(crate) fn bounded(reader: R, max_bytes: usize) -> Self {
        Self { reader, max_bytes, buffer: Vec::new(), number: 0 }
    }

    /// The next line, none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let (mut found, mut too_long, mut is_ended) = (false, false, false);
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            if available.is_empty() {
                break;
            }
            found = true;
            let end = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            too_long |= self.buffer.len() + part.len() > self.max_bytes;
            if !too_long {
                self.buffer.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                is_ended = true;
                break;
            }
        }
        if !found {
            return Ok(None);
        }
        self.number += 1;
        let text = (!too_long).then(|| trimmed(&self.buffer, self.number));
        Ok(Some(Line { number: self.number, text, is_ended }))
    }
}

/// The line without the marks that another system may put around the same text: the id must not depend on them.
fn trimmed(line: &[u8], number: u64) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match number {
        1 => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
        _ => line,
    }
}

/// Makes the ids of lines: SHA-256 of the line and how often it has occurred in the file so far, so that identical
/// lines are separate calls, and the same file gives the same ids again.
#[derive(Default)]
pub(crate) struct LineIds {
    /// Counts by the first half of a line's hash, since a file may have very many lines. Should two lines share it, the
    /// second one starts at 2: its id stays unique and the same in every run.
    seen: HashMap<u128, u32>,
}

impl LineIds {
    /// The id of the file's next line.
    pub(crate) fn next(&mut self, line: &[u8]) -> String {
        let digest: [u8; 32] = Sha256::digest(line).into();
        let half = digest[..16].try_into().map(u128::from_be_bytes).unwrap_or_default();
        let occurrence = self.seen.entry(half).or_insert(0);
        *occurrence += 1;
        format!("{}-{occurrence}", hex::encode(digest))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(text: &[u8], buffer_bytes: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer_bytes, text));
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push((line.number, line.text.map(<[u8]>::to_vec)));
        }
        all
    }

    #[test]
    fn lines_are_numbered_whatever_ends_them() {
        let text = b"\xef\xbb\xbfone\r\n\ntwo\nthree";
        let expected: Vec<(u64, Option<Vec<u8>>)> = vec![
            (1, Some(b"one".to_vec())),
            (2, Some(Vec::new())),
            (3, Some(b"two".to_vec())),
            (4, Some(b"three".to_vec())),
        ];
        for buffer_bytes in [1, 2, 5, 1_000] {
            assert_eq!(read(text, buffer_bytes), expected);
        }
        assert_eq!(read(b"", 10), []);
    }

    #[test]
    fn only_the_last_line_may_have_no_end() {
        for (text, expected) in [
            (&b"a\nb\n"[..], &[true, true][..]),
            (b"a\nb", &[true, false]),
            (b"a\r\nb\r", &[true, false]),
            (b"a\n\n", &[true, true]),
            (b"", &[]),
        ] {
            let mut lines = Lines::new(text);
            let mut ends = Vec::new();
            while let Some(line) = lines.next().unwrap() {
                ends.push(line.is_ended);
            }
            assert_eq!(ends, expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_too_long_is_passed_over_and_the_next_one_read() {
        let longest = vec![b'a'; MAX_LINE_BYTES];
        let text = [longest.as_slice(), b"\n", &longest, b"a\nshort\n"].concat();
        assert_eq!(read(&text, 8_192), [(1, Some(longest)), (2, None), (3, Some(b"short".to_vec()))]);
    }

    #[test]
    fn identical_lines_have_ids_of_their_own_and_keep_them() {
        let ids = |lines: &[&str]| -> Vec<String> {
            let mut ids = LineIds::default();
            lines.iter().map(|line| ids.next(line.as_bytes())).collect()
        };
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let all = ids(&["abc", "x", "abc"]);
        assert_eq!((all[0].as_str(), all[2].as_str()), (&*format!("{abc}-1"), &*format!("{abc}-2")));
        assert_eq!(ids(&["abc", "x", "abc"]), all);
    }
}
