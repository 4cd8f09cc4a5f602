//! Types that hold a secret can be neither printed nor serialised, and zero themselves.

use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::fmt::{Debug, Display};
use vault::{DataKey, KeyRing, RootKey, SecretText};
use zeroize::ZeroizeOnDrop;

assert_not_impl_any!(RootKey: Debug, Display, serde::Serialize, Clone, PartialEq);
assert_not_impl_any!(KeyRing: Debug, Display, serde::Serialize, Clone, PartialEq);
assert_not_impl_any!(DataKey: Debug, Display, serde::Serialize, Clone, PartialEq);
assert_not_impl_any!(SecretText: Debug, Display, serde::Serialize, Clone, PartialEq);

assert_impl_all!(RootKey: ZeroizeOnDrop, Send, Sync);
assert_impl_all!(SecretText: ZeroizeOnDrop, Send, Sync);
// Made of parts that zero themselves, which the crate asserts where it defines them.
assert_impl_all!(KeyRing: Send, Sync);
assert_impl_all!(DataKey: Send, Sync);

#[test]
fn no_error_shows_a_key_or_a_token() {
    let key = "deadbeef".repeat(8);
    let configs = [
        ("deadbeefz", "k1", String::new()),
        (&key, "k 1", String::new()),
        (&key, "k1", format!("k0{key}")),
        (&key, "k1", format!("k0:{key}0")),
        (&key, "k1", format!("k1:{key}")),
        (&key, "k1", format!("{key}:k0")),
        (&key, "k1", format!("k0:{key},")),
    ];
    for (key, kid, previous) in configs {
        let error = KeyRing::from_config(key, kid, &previous).err().expect("malformed");
        let mut shown = format!("{error:?}");
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = next {
            shown.push_str(&error.to_string());
            next = error.source();
        }
        assert!(!shown.contains("deadbeef"), "{shown}");
    }
}
