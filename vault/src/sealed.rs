//! Sealed values and their JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::a256cbc_hs512::{OpenError, TAG_BYTES};
use crate::lower_hex;
use crate::names::{DekId, RootKeyId};

/// The version of the sealed form that this crate writes, and the only one that it opens.
const VERSION: u8 = 2;

/// A sealed value: `{"v":2,"kid":"k1","dek":"d1","encrypted":"<hex>","iv":"<hex>","tag":"<hex>"}`.
///
/// Or, where many are kept, the same in one JSON string: base64url without padding (RFC 4648 §5) of
/// `v ‖ len(kid) ‖ kid ‖ len(dek) ‖ dek ‖ iv ‖ tag ‖ ciphertext`, where `v` and the lengths are a byte each.
///
/// Exactly these six members, hexadecimal digits in lower case, a ciphertext of whole blocks, an IV of 16 and a tag of
/// 32 bytes. Whatever else there is, or lacks, is [`OpenError`]: a value without a tag or a version is not an older
/// form of this one. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub(crate) kid: RootKeyId,
    pub(crate) dek: DekId,
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) iv: [u8; 16],
    pub(crate) tag: [u8; TAG_BYTES],
}

impl Sealed {
    /// The root key that the data key was wrapped under when this was sealed. In a wrapped data key it says which
    /// root key opens it; elsewhere it only informs, for a rotation re-wraps data keys and changes no event.
    pub fn kid(&self) -> &RootKeyId {
        &self.kid
    }

    /// The data key that this is sealed under, or, in a wrapped data key, which one it is.
    pub fn dek(&self) -> &DekId {
        &self.dek
    }

    /// Reads the JSON, of either form. Every deviation is the one error.
    pub fn from_json(json: &str) -> Result<Self, OpenError> {
        if let Some(text) = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            return Self::from_compact(text);
        }
        if let Some(sealed) = Self::from_canonical(json) {
            return Ok(sealed);
        }
        // Another program may have written it, with its members in another order.
        serde_json::from_str(json).map_err(|_| OpenError)
    }

    /// Reads the very bytes that [`write_json`](Self::write_json) writes, which is nearly all that is ever read, at a
    /// fraction of the time. Nothing for whatever differs, be it good or bad.
    fn from_canonical(json: &str) -> Option<Self> {
        let rest = json.strip_prefix("{\"v\":2,\"kid\":\"")?;
        let (kid, rest) = rest.split_once('"')?;
        let (dek, rest) = rest.strip_prefix(",\"dek\":\"")?.split_once('"')?;
        let rest = rest.strip_prefix(",\"encrypted\":\"")?.strip_suffix("\"}")?;
        // All that is left but the ciphertext has a fixed length. A text that is cut elsewhere than there holds other
        // bytes than digits, which are refused.
        let (rest, tag) = rest.as_bytes().split_last_chunk::<{ 2 * TAG_BYTES }>()?;
        let rest = rest.strip_suffix(b"\",\"tag\":\"")?;
        let (rest, iv) = rest.split_last_chunk::<32>()?;
        let encrypted = rest.strip_suffix(b"\",\"iv\":\"")?;
        Members { kid, dek, encrypted, iv, tag }.check().ok()
    }

    /// The JSON form, its members in the order of the documentation and without white space.
    pub fn to_json(&self) -> String {
        let mut out = Vec::with_capacity(self.json_bytes());
        self.write_json(&mut out);
        String::from_utf8(out).expect("names and hexadecimal digits are ASCII")
    }

    /// Appends the JSON form; the same bytes as [`to_json`](Self::to_json), without an allocation of its own.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(self.json_bytes());
        // Names need no escaping: their alphabet has neither quotes nor backslashes.
        out.extend_from_slice(b"{\"v\":2,\"kid\":\"");
        out.extend_from_slice(self.kid.as_str().as_bytes());
        out.extend_from_slice(b"\",\"dek\":\"");
        out.extend_from_slice(self.dek.as_str().as_bytes());
        out.extend_from_slice(b"\",\"encrypted\":\"");
        lower_hex::append(out, &self.ciphertext);
        out.extend_from_slice(b"\",\"iv\":\"");
        lower_hex::append(out, &self.iv);
        out.extend_from_slice(b"\",\"tag\":\"");
        lower_hex::append(out, &self.tag);
        out.extend_from_slice(b"\"}");
    }

    /// The value as one JSON string, quotes included.
    pub fn to_compact_json(&self) -> String {
        let names = [self.kid.as_str(), self.dek.as_str()];
        let prefix: usize = names.iter().map(|name| 1 + name.len()).sum();
        let mut bytes =
            Vec::with_capacity(1 + prefix + self.iv.len() + self.tag.len() + self.ciphertext.len());
        bytes.push(VERSION);
        for name in names {
            bytes.push(u8::try_from(name.len()).expect("a name has 32 bytes at most"));
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.extend_from_slice(&self.iv);
        bytes.extend_from_slice(&self.tag);
        bytes.extend_from_slice(&self.ciphertext);
        let mut json = String::with_capacity(2 + bytes.len().div_ceil(3) * 4);
        json.push('"');
        URL_SAFE_NO_PAD.encode_string(&bytes, &mut json);
        json.push('"');
        json
    }

    /// Reads what stands between the quotes. One value has one form: padding, bits beyond the last byte, and every
    /// other alphabet are refused.
    fn from_compact(text: &str) -> Result<Self, OpenError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError)?;
        let rest = bytes.strip_prefix(&[VERSION]).ok_or(OpenError)?;
        let (kid, rest) = split_name(rest).ok_or(OpenError)?;
        let (dek, rest) = split_name(rest).ok_or(OpenError)?;
        let (iv, rest) = rest.split_first_chunk().ok_or(OpenError)?;
        let (tag, ciphertext) = rest.split_first_chunk().ok_or(OpenError)?;
        if !is_whole_blocks(ciphertext) {
            return Err(OpenError);
        }
        Ok(Self {
            kid: kid.parse().map_err(|_| OpenError)?,
            dek: dek.parse().map_err(|_| OpenError)?,
            ciphertext: ciphertext.to_vec(),
            iv: *iv,
            tag: *tag,
        })
    }

    fn json_bytes(&self) -> usize {
        // 61 bytes of punctuation and member names.
        64 + self.kid.as_str().len()
            + self.dek.as_str().len()
            + 2 * (self.ciphertext.len() + self.iv.len() + self.tag.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Sealed", 6)?;
        object.serialize_field("v", &VERSION)?;
        object.serialize_field("kid", self.kid.as_str())?;
        object.serialize_field("dek", self.dek.as_str())?;
        object.serialize_field("encrypted", &hex::encode(&self.ciphertext))?;
        object.serialize_field("iv", &hex::encode(self.iv))?;
        object.serialize_field("tag", &hex::encode(self.tag))?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if wire.v != VERSION {
            return Err(D::Error::custom(OpenError));
        }
        let members = Members {
            kid: &wire.kid,
            dek: &wire.dek,
            encrypted: wire.encrypted.as_bytes(),
            iv: wire.iv.as_bytes(),
            tag: wire.tag.as_bytes(),
        };
        members.check().map_err(D::Error::custom)
    }
}

/// The members as they stand in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    v: u8,
    #[serde(borrow)]
    kid: Cow<'a, str>,
    #[serde(borrow)]
    dek: Cow<'a, str>,
    #[serde(borrow)]
    encrypted: Cow<'a, str>,
    #[serde(borrow)]
    iv: Cow<'a, str>,
    #[serde(borrow)]
    tag: Cow<'a, str>,
}

/// The text of the members, whose version is known to be the right one.
struct Members<'a> {
    kid: &'a str,
    dek: &'a str,
    encrypted: &'a [u8],
    iv: &'a [u8],
    tag: &'a [u8],
}

impl Members<'_> {
    fn check(&self) -> Result<Sealed, OpenError> {
        let mut sealed = Sealed {
            kid: self.kid.parse().map_err(|_| OpenError)?,
            dek: self.dek.parse().map_err(|_| OpenError)?,
            ciphertext: vec![0; self.encrypted.len() / 2],
            iv: [0; 16],
            tag: [0; TAG_BYTES],
        };
        if !is_whole_blocks(&sealed.ciphertext) {
            return Err(OpenError);
        }
        lower_hex::decode(self.encrypted, &mut sealed.ciphertext)?;
        lower_hex::decode(self.iv, &mut sealed.iv)?;
        lower_hex::decode(self.tag, &mut sealed.tag)?;
        Ok(sealed)
    }
}

fn is_whole_blocks(ciphertext: &[u8]) -> bool {
    !ciphertext.is_empty() && ciphertext.len().is_multiple_of(16)
}

/// A name with its length before it, and what follows it.
fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(length.into())?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::Sealed;
    use crate::OpenError;

    fn json(version: &str, encrypted: &str, iv: &str, tag: &str) -> String {
        format!(
            r#"{{"v":{version},"kid":"k1","dek":"d1","encrypted":"{encrypted}","iv":"{iv}","tag":"{tag}"}}"#
        )
    }

    #[test]
    fn round_trips_to_the_byte() {
        let text = json("2", &"0a".repeat(32), &"1b".repeat(16), &"2c".repeat(32));
        let sealed = Sealed::from_json(&text).expect("well-formed");
        assert_eq!(sealed.to_json(), text);
        assert_eq!(serde_json::to_string(&sealed).expect("serialises"), text);
        assert!(text.len() <= sealed.json_bytes());
    }

    #[test]
    fn takes_escaped_text_and_members_in_any_order() {
        let text = format!(
            r#" {{"tag":"{}","iv":"{}","encrypted":"{}","d\u0065k":"\u0064\u0031","kid":"k1","v":2}} "#,
            "2c".repeat(32),
            "1b".repeat(16),
            "0a".repeat(16)
        );
        assert_eq!(Sealed::from_json(&text).expect("well-formed").dek.as_str(), "d1");
    }

    #[test]
    fn refuses_every_other_form_with_the_one_error() {
        let (encrypted, iv, tag) = ("0a".repeat(16), "1b".repeat(16), "2c".repeat(32));
        let good = json("2", &encrypted, &iv, &tag);
        assert!(Sealed::from_json(&good).is_ok());
        let mut refused = vec![
            String::new(),
            "null".into(),
            "{}".into(),
            format!("[{good}]"),
            format!("{good}x"),
            json("1", &encrypted, &iv, &tag),
            json("3", &encrypted, &iv, &tag),
            json("2.0", &encrypted, &iv, &tag),
            json("258", &encrypted, &iv, &tag),
            json("\"2\"", &encrypted, &iv, &tag),
            json("null", &encrypted, &iv, &tag),
            json("2", "", &iv, &tag),
            json("2", &encrypted[2..], &iv, &tag),
            json("2", &encrypted[1..], &iv, &tag),
            json("2", &format!("{encrypted}0"), &iv, &tag),
            json("2", &encrypted.to_uppercase(), &iv, &tag),
            json("2", &encrypted.replace('0', "g"), &iv, &tag),
            json("2", &encrypted, &iv[2..], &tag),
            json("2", &encrypted, &format!("{iv}00"), &tag),
            json("2", &encrypted, &iv.to_uppercase(), &tag),
            json("2", &encrypted, &iv, &tag[..62]),
            json("2", &encrypted, &iv, &tag[..32]),
            json("2", &encrypted, &iv, ""),
            json("2", &encrypted, &iv, &format!("{tag}00")),
            json("2", &encrypted, &iv, &tag.to_uppercase()),
            good.replace("k1", ""),
            good.replace("k1", "k 1"),
            good.replace("d1", &"d".repeat(33)),
            good.replace("\"d1\"", "1"),
            good.replace('}', ",\"x\":1}"),
            good.replace('}', ",\"v\":2}"),
        ];
        for member in ["\"v\":2,", "\"kid\":\"k1\",", "\"dek\":\"d1\","] {
            refused.push(good.replace(member, ""));
        }
        refused.push(good.replace(&format!(",\"tag\":\"{tag}\""), ""));
        refused.push(good.replace(&format!("\"iv\":\"{iv}\","), ""));
        refused.push(good.replace(&format!("\"encrypted\":\"{encrypted}\","), ""));
        for text in refused {
            assert_ne!(text, good);
            assert_eq!(Sealed::from_json(&text), Err(OpenError), "{text}");
        }
    }

    /// What the compact form holds, before it is written in base64url.
    fn compact_bytes() -> Vec<u8> {
        let names = [&[2_u8, 2][..], b"k1", &[2], b"d1"].concat();
        [names, vec![0x1b; 16], vec![0x2c; 32], vec![0x0a; 32]].concat()
    }

    fn quoted(bytes: &[u8]) -> String {
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(bytes))
    }

    #[test]
    fn both_forms_say_the_same() {
        let sealed = Sealed::from_json(&json("2", &"0a".repeat(32), &"1b".repeat(16), &"2c".repeat(32)));
        let sealed = sealed.expect("well-formed");
        let compact = sealed.to_compact_json();
        assert_eq!(compact, quoted(&compact_bytes()));
        assert_eq!(Sealed::from_json(&compact), Ok(sealed));
    }

    #[test]
    fn refuses_every_other_string_with_the_one_error() {
        let good = compact_bytes();
        assert!(Sealed::from_json(&quoted(&good)).is_ok());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            quoted(&bytes)
        };
        let text = quoted(&good);
        let inner = text.trim_matches('"');
        let mut refused = vec![
            "\"\"".to_owned(),
            "\"".to_owned(),
            inner.to_owned(),
            text.replace('"', "'"),
            format!(" {text}"),
            format!("\"{inner}=\""),
            format!("\"{inner}A\""),
            format!("\"{inner}AAAA\""),
            format!("\"{}\"", &inner[1..]),
            format!("\"+{}\"", &inner[1..]),
            format!("\"/{}\"", &inner[1..]),
            format!("\"\\u0041{}\"", &inner[1..]),
            format!("\"{} {}\"", &inner[..8], &inner[8..]),
            format!("\"ä{inner}\""),
            // The version, and lengths of names that are none, too long, or beyond the end.
            with(0, 1),
            with(0, 3),
            with(1, 0),
            with(1, 1),
            with(1, 3),
            with(1, 33),
            with(1, 255),
            with(4, 0),
            with(4, 255),
            // Names of other characters.
            with(2, b' '),
            with(2, b'"'),
            with(5, 0xff),
            with(6, 0),
        ];
        // Whatever is cut off, and whatever is too much: a ciphertext has whole blocks, and at least one.
        let whole = [good.len(), good.len() - 16];
        let cut = (0..good.len()).filter(|length| !whole.contains(length));
        refused.extend(cut.map(|length| quoted(&good[..length])));
        refused.extend((1..16).map(|more| quoted(&[&good[..], &vec![0; more]].concat())));
        // Bits beyond the last byte: 87 bytes have none, 103 leave four.
        let odd = [&good[..], &[0; 16]].concat();
        let odd = quoted(&odd);
        assert!(Sealed::from_json(&odd).is_ok());
        refused.push(odd.replace("A\"", "B\""));
        for text in refused {
            assert_eq!(Sealed::from_json(&text), Err(OpenError), "{text}");
        }
    }

    /// One change of a text.
    #[derive(Debug, Clone)]
    enum Change {
        Cut(Index),
        Remove(Index),
        Insert(Index, char),
        Replace(Index, char),
        Repeat(Index, Index),
    }

    impl Change {
        fn apply(&self, text: &mut String) {
            let place = |text: &str, place: Index| {
                // Between characters: a changed text may hold longer ones than ASCII.
                let all: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                all[place.index(all.len())]
            };
            match *self {
                Self::Cut(at) => text.truncate(place(text, at)),
                Self::Remove(at) => {
                    let at = place(text, at);
                    let end = text[at..].chars().next().map_or(at, |first| at + first.len_utf8());
                    text.replace_range(at..end, "");
                }
                Self::Insert(at, new) => text.insert(place(text, at), new),
                Self::Replace(at, new) => {
                    Self::Remove(at).apply(text);
                    Self::Insert(at, new).apply(text);
                }
                Self::Repeat(one, other) => {
                    let (one, other) = (place(text, one), place(text, other));
                    let part = text[one.min(other)..one.max(other)].to_owned();
                    text.insert_str(one, &part);
                }
            }
        }
    }

    fn change() -> impl Strategy<Value = Change> {
        let at = any::<Index>;
        let new = || prop_oneof![4 => proptest::char::range('\0', '~'), 1 => any::<char>()];
        prop_oneof![
            at().prop_map(Change::Cut),
            at().prop_map(Change::Remove),
            (at(), new()).prop_map(|(at, new)| Change::Insert(at, new)),
            (at(), new()).prop_map(|(at, new)| Change::Replace(at, new)),
            (at(), at()).prop_map(|(one, other)| Change::Repeat(one, other)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The quick way of reading differs from the general one in nothing but time.
        #[test]
        fn both_ways_of_reading_agree(
            kid in "[A-Za-z0-9._-]{0,33}",
            dek in "[A-Za-z0-9._-]{1,3}",
            blocks in 0..5_usize,
            bytes in proptest::collection::vec(any::<u8>(), 128),
            version in prop_oneof![8 => Just("2"), 1 => Just("1"), 1 => Just("2 ")],
            changes in proptest::collection::vec(change(), 0..4),
        ) {
            let hex = |range: std::ops::Range<usize>| hex::encode(&bytes[range]);
            let (encrypted, iv, tag) = (hex(0..16 * blocks), hex(64..80), hex(80..112));
            let mut text = format!(
                r#"{{"v":{version},"kid":"{kid}","dek":"{dek}","encrypted":"{encrypted}","iv":"{iv}","tag":"{tag}"}}"#
            );
            let quick = Sealed::from_canonical(&text);
            prop_assert_eq!(quick.is_some(), version == "2" && (1..=32).contains(&kid.len()) && blocks > 0);
            prop_assert_eq!(quick.map(|sealed| sealed.to_json()).unwrap_or(text.clone()), text.clone());
            for change in changes {
                change.apply(&mut text);
            }
            let general: Result<Sealed, OpenError> = serde_json::from_str(&text).map_err(|_| OpenError);
            let quick = Sealed::from_canonical(&text);
            prop_assert!(quick.is_none() || quick == general.clone().ok(), "{}", text);
            prop_assert_eq!(Sealed::from_json(&text), general, "{}", text);
        }
    }
}
