//! The keys that messages are signed with.

use std::fmt;

use ring::{digest, hmac};

/// Identifies a key without revealing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

/// A key derived from the bytes of a Secret.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    hmac: hmac::Key,
}

impl Key {
    /// Derives a key from the bytes of a Secret: SHA-256 of a label and the bytes, so that no other use of
    /// the same Secret has the same key.
    pub fn from_secret(secret: &[u8]) -> Self {
        let labelled = |label: &[u8]| {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(label);
            context.update(secret);
            context.finish()
        };
        let mut id = [0; 4];
        id.copy_from_slice(&labelled(b"lbstack beacon key id\0").as_ref()[..4]);
        let key = labelled(b"lbstack beacon key\0");
        Self { id: KeyId(id), hmac: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()) }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hmac, bytes)
    }

    /// Whether `tag` is a prefix of the signature of `bytes`; takes the same time wherever they differ.
    pub(super) fn verifies(&self, bytes: &[u8], tag: &[u8]) -> bool {
        let signature = self.sign(bytes);
        let difference = signature.as_ref().iter().zip(tag).fold(0, |sum, (a, b)| sum | (a ^ b));
        tag.len() == super::TAG && difference == 0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.id)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// The accepted keys, the preferred one first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// From keys in the order of preference; duplicates are ignored.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Self {
        let mut ring = Self::default();
        for key in keys {
            if ring.get(key.id).is_none() && ring.keys.len() < super::KEYS {
                ring.keys.push(key);
            }
        }
        ring
    }

    /// The keys, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The key with that id.
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The ids of all keys.
    pub fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(Key::id).collect()
    }

    /// The keys to sign with for a peer that accepts those of `known`: the preferred one of them, or all if
    /// that is unknown or there is none in common. So a new key is used only once its receiver has it.
    pub fn for_peer(&self, known: &[KeyId]) -> &[Key] {
        match self.keys.iter().position(|key| known.contains(&key.id)) {
            Some(at) => &self.keys[at..=at],
            None => &self.keys,
        }
    }
}
