//! The form of an API key, `vk_<prefix>_<secret>`, and the keyed hash that is kept of its secret.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

const SCHEME: &str = "vk_";
/// Characters of the public part: 60 bits, enough never to meet another one.
const PREFIX_LEN: usize = 12;
/// 256 random bits in base 32.
const SECRET_LEN: usize = 52;

/// HMAC-SHA-256 of a secret. Secrets are random and long, so that a fast hash is enough: nothing can be
/// guessed.
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Compares in a time that tells nothing of where they differ.
    pub fn same(&self, other: &KeyHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// The data directory's secret, ready to hash with: without it, a stolen database is no use for guessing
/// keys.
pub struct Pepper(Hmac<Sha256>);

impl Pepper {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }
    pub fn hash(&self, secret: &str) -> KeyHash {
        let mut mac = self.0.clone();
        mac.update(secret.as_bytes());
        KeyHash(mac.finalize().into_bytes().into())
    }
}

/// A new prefix and secret, from the generator that the operating system seeds.
pub fn generate() -> (String, String) {
    let prefix: [u8; 8] = rand::random();
    let secret: [u8; 32] = rand::random();
    let mut prefix = BASE32_NOPAD.encode(&prefix).to_ascii_lowercase();
    prefix.truncate(PREFIX_LEN);
    (prefix, BASE32_NOPAD.encode(&secret).to_ascii_lowercase())
}

pub fn join(prefix: &str, secret: &str) -> String {
    format!("{SCHEME}{prefix}_{secret}")
}

/// Whether this begins as a key does.
pub fn has_scheme(token: &str) -> bool {
    token.starts_with(SCHEME)
}

/// The prefix and the secret of a key, when it has a key's form.
pub fn split(key: &str) -> Option<(&str, &str)> {
    let (prefix, secret) = key.strip_prefix(SCHEME)?.split_once('_')?;
    let base32 = |s: &str| s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
    let well_formed =
        prefix.len() == PREFIX_LEN && secret.len() == SECRET_LEN && base32(prefix) && base32(secret);
    well_formed.then_some((prefix, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_has_the_form_that_is_read_back() {
        let (prefix, secret) = generate();
        assert_eq!(split(&join(&prefix, &secret)), Some((&*prefix, &*secret)));
        assert_ne!(generate(), (prefix, secret));
        assert_eq!(split("vk_abc_def"), None);
    }
}
