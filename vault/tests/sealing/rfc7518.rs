//! The codec against the vector of RFC 7518, Appendix B.3 (A256CBC-HS512).

use vault::a256cbc_hs512::{open, seal};

const PLAINTEXT: &[u8] =
    b"A cipher system must not be required to be secret, and it must be able to fall into the \
    hands of the enemy without inconvenience";
const AAD: &[u8] = b"The second principle of Auguste Kerckhoffs";
const IV: &str = "1af38c2dc2b96ffdd86694092341bc04";
const CIPHERTEXT: &str = "4affaaadb78c31c5da4b1b590d10ffbd3dd8d5d302423526912da037ecbcc7bd\
    822c301dd67c373bccb584ad3e9279c2e6d12a1374b77f077553df829410446b\
    36ebd97066296ae6427ea75c2e0846a11a09ccf5370dc80bfecbad28c73f09b3\
    a3b75e662a2594410ae496b2e2e6609e31e6e02cc837f053d21f37ff4f51950b\
    be2638d09dd7a4930930806d0703b1f6";
const TAG: &str = "4dd3b4c088a7f45c216839645b2012bf2e6269a8c56a816dbc1b267761955bc5";

#[test]
fn appendix_b3_passes_both_ways() {
    let key: [u8; 64] = std::array::from_fn(|index| u8::try_from(index).expect("below 64"));
    let mut iv = [0; 16];
    hex::decode_to_slice(IV, &mut iv).expect("hexadecimal");
    let (ciphertext, tag) = seal(&key, &iv, AAD, PLAINTEXT);
    assert_eq!(hex::encode(&ciphertext), CIPHERTEXT);
    assert_eq!(hex::encode(tag), TAG);
    assert_eq!(open(&key, &iv, AAD, &ciphertext, &tag).expect("opens").as_slice(), PLAINTEXT);
}
