//! Sealing of what tenants keep secret: the spec of a record, with the values of its environment and files.
//!
//! AES-256-GCM with a random 96-bit nonce per value (safe for 2^32 values under one key; a value is sealed once
//! per claim, seldom again) and the record's key as associated data, so that a sealed spec moved to another
//! record does not open. The key lives outside the database: whoever has only the file reads no secret.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac, rand,
};
use zeroize::Zeroizing;

/// Bytes of the key of AES-256.
const KEY_BYTES: usize = 32;
/// Name of the key file that is made beside the database.
const KEY_FILE: &str = "ledger.key";
/// Longest key file that is read: 64 digits, a line end and some grace.
const KEY_FILE_BYTES_MAX: u64 = 80;

/// The key that seals specs. `Debug` shows nothing of it; it is wiped when dropped.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; KEY_BYTES]>);

/// Why a key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key file {path} cannot be {did}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `made`.
        did: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the key file {0} must hold 64 hexadecimal digits; restore it from the backup")]
    Malformed(PathBuf),
    /// Others can read the file.
    #[error("the key file {0} can be read by others; run: chmod 600 {0}")]
    Exposed(PathBuf),
    /// The database is there and its key is not; a new key could not open it.
    #[error("the ledger {database} is there but its key {key} is not; restore the key from the backup")]
    Missing {
        /// The database.
        database: PathBuf,
        /// Where the key is looked for.
        key: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl SealKey {
    /// A key from its bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a key file: 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError::Io`] and [`KeyError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), did: "read", source };
        let mut text = Zeroizing::new(String::new());
        File::open(path).map_err(failed)?.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        Self::from_hex(text.trim()).ok_or_else(|| KeyError::Malformed(path.to_owned()))
    }

    /// The key beside a database (`ledger.key`, mode 0600), made with the first start of a new database.
    ///
    /// # Errors
    /// As [`SealKey::read`]; [`KeyError::Exposed`] when others may read the file; [`KeyError::Missing`] when the
    /// database exists without its key.
    pub fn beside(database: &Path) -> Result<Self, KeyError> {
        let path = database.with_file_name(KEY_FILE);
        match fs::metadata(&path) {
            Ok(meta) if is_exposed(&meta) => return Err(KeyError::Exposed(path)),
            Ok(_) => return Self::read(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeyError::Io { path, did: "read", source }),
        }
        if fs::metadata(database).is_ok_and(|m| m.len() > 0) {
            return Err(KeyError::Missing { database: database.to_owned(), key: path });
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
        let key = Self(bytes);
        let made = key.write_new(&path);
        match made {
            // Another process was faster; its key counts.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::read(&path),
            Err(source) => Err(KeyError::Io { path, did: "made", source }),
            Ok(()) => Ok(key),
        }
    }

    /// Writes the whole key or nothing, and never over another one: the link fails if the name exists.
    fn write_new(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension(format!("key.{}", std::process::id()));
        let written = (|| {
            let mut file = private_file(&draft, true)?;
            let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
            for byte in self.0.iter() {
                text.push_str(&format!("{byte:02x}"));
            }
            text.push('\n');
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::hard_link(&draft, path)
        })();
        // The draft holds the key: it goes in every case, and what fails here is told by the result above.
        let _ = fs::remove_file(&draft);
        written?;
        sync_folder(path)
    }

    fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let mut value = 0;
            for digit in pair {
                value = value * 16 + char::from(*digit).to_digit(16)?;
            }
            *byte = u8::try_from(value).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

#[cfg(unix)]
fn is_exposed(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn is_exposed(_: &fs::Metadata) -> bool {
    false
}

/// Opens a file that only its owner may read, making it if need be; `fresh` refuses one that exists.
pub(crate) fn private_file(path: &Path, fresh: bool) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).create_new(fresh).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes a file's name durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Why a sealed value does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unopened;

/// Bytes of a [`Sealer::digest`]: two texts have the same one by chance once in 2^64 pairs of one place.
const DIGEST_BYTES: usize = 16;

/// Seals and opens values.
#[derive(Debug)]
pub(crate) struct Sealer(RandomizedNonceKey, hmac::Key);

impl Sealer {
    /// The sealer of a key; `None` if the library refuses it.
    pub(crate) fn new(key: &SealKey) -> Option<Self> {
        // The digests have a key of their own.
        let digests = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.0.as_slice()), b"meridian ledger digest v1");
        let digests = hmac::Key::new(hmac::HMAC_SHA256, digests.as_ref());
        RandomizedNonceKey::new(&AES_256_GCM, key.0.as_slice()).ok().map(|sealing| Self(sealing, digests))
    }

    /// Tells whether a text at a place has changed, to who has the key, and nothing to others.
    pub(crate) fn digest(&self, place: &[u8], text: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.1);
        context.update(&place.len().to_be_bytes());
        context.update(place);
        context.update(text);
        context.sign().as_ref().iter().copied().take(DIGEST_BYTES).collect()
    }

    /// `nonce || ciphertext || tag` of the text, bound to `place`.
    pub(crate) fn seal(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, Unopened> {
        let mut body = text.to_vec();
        let (nonce, tag) = self.0.seal_in_place_separate_tag(Aad::from(place), &mut body).map_err(|_| Unopened)?;
        let mut sealed = Vec::with_capacity(NONCE_LEN + body.len() + tag.as_ref().len());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// The text of a sealed value that was bound to `place`.
    pub(crate) fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(Unopened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened)?;
        let mut text = Zeroizing::new(body.to_vec());
        let len = self.0.open_in_place(nonce, Aad::from(place), &mut text).map_err(|_| Unopened)?.len();
        text.truncate(len);
        Ok(text)
    }
}

/// A random text of 32 hexadecimal digits; `None` if the system gives no random bytes.
pub(crate) fn random_text() -> Option<String> {
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&SealKey::new([byte; KEY_BYTES])).unwrap()
    }

    #[test]
    fn opens_only_with_its_key_at_its_place_and_unchanged() {
        let sealed = sealer(1).seal(b"acme\0op1", b"secret").unwrap();
        assert_eq!(sealer(1).open(b"acme\0op1", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(sealer(2).open(b"acme\0op1", &sealed).unwrap_err(), Unopened);
        assert_eq!(sealer(1).open(b"acme\0op2", &sealed).unwrap_err(), Unopened);
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert!(sealer(1).open(b"acme\0op1", &bent).is_err(), "byte {i}");
            assert!(sealer(1).open(b"acme\0op1", &sealed[..i]).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn two_seals_of_one_text_differ() {
        assert_ne!(sealer(1).seal(b"p", b"t").unwrap(), sealer(1).seal(b"p", b"t").unwrap());
    }

    #[test]
    fn the_key_beside_a_database_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("ledger.redb");
        let first = SealKey::beside(&database).unwrap();
        let again = SealKey::beside(&database).unwrap();
        assert_eq!(first.0, again.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        let key = folder.path().join(KEY_FILE);
        assert!(!is_exposed(&fs::metadata(&key).unwrap()));
        assert_eq!(format!("{first:?}"), "SealKey(..)");
    }

    #[test]
    fn a_lost_open_or_broken_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("ledger.redb");
        fs::write(&database, b"something").unwrap();
        assert!(matches!(SealKey::beside(&database), Err(KeyError::Missing { .. })));
        let key = folder.path().join(KEY_FILE);
        drop(private_file(&key, true).unwrap());
        assert!(matches!(SealKey::beside(&database), Err(KeyError::Malformed(_))));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(SealKey::beside(&database), Err(KeyError::Exposed(_))));
        }
    }
}
