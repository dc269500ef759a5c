//! The key that signs the heads of a chain: Ed25519, made at the first start, kept beside the chain for its owner alone,
//! or wherever the configuration says. Who has it can make heads; who has only the chain cannot.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use crate::cli::write_private;

/// Name of the key in the chain's folder.
pub const KEY_FILE: &str = "audit.key";
/// Longest key file that is read: 44 characters of base64, a line end and some grace.
const FILE_LEN_MAX: usize = 128;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the audit key {path} cannot be {did}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `made`.
        did: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is not a key.
    #[error(
        "the audit key {0} must hold 32 bytes in base64; restore it from the backup, or move it away for a new one"
    )]
    Malformed(PathBuf),
    /// Others can read it.
    #[error("the audit key {0} can be read by others; run: chmod 600 {0}")]
    Exposed(PathBuf),
    /// The library refuses.
    #[error("no audit key could be made")]
    Unmade,
}

/// The key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

impl SigningKey {
    /// Reads the key of a file, or makes one there.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::make(path),
            read => read,
        }
    }

    /// Reads the key of a file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), did: "read", source };
        let about = fs::metadata(path).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if about.permissions().mode() & 0o077 != 0 {
                return Err(KeyError::Exposed(path.to_owned()));
            }
        }
        let malformed = || KeyError::Malformed(path.to_owned());
        if about.len() > FILE_LEN_MAX as u64 {
            return Err(malformed());
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        let seed = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).map_err(|_| malformed())?);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| malformed())?;
        Ok(Self::of(pair))
    }

    fn make(path: &Path) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Unmade)?;
        let seed = pair.seed().and_then(|seed| seed.as_be_bytes()).map_err(|_| KeyError::Unmade)?;
        let text = Zeroizing::new(format!("{}\n", BASE64_STANDARD.encode(seed.as_ref())));
        let failed = |source| KeyError::Io { path: path.to_owned(), did: "made", source };
        write_private(path, text.as_bytes()).map_err(failed)?;
        Ok(Self::of(pair))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let public = BASE64_STANDARD.encode(pair.public_key().as_ref());
        Self { pair, public }
    }

    /// The public key in base64.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Signs a text; the signature in base64.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> String {
        BASE64_STANDARD.encode(self.pair.sign(text).as_ref())
    }
}

/// Whether a signature is that of a public key over a text.
#[must_use]
pub fn is_signed(public: &[u8], text: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(text, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let made = SigningKey::open(&path).unwrap();
        let read = SigningKey::open(&path).unwrap();
        assert_eq!(made.public(), read.public());
        let (public, signature) =
            (BASE64_STANDARD.decode(made.public()).unwrap(), BASE64_STANDARD.decode(read.sign(b"text")).unwrap());
        assert!(is_signed(&public, b"text", &signature));
        assert!(!is_signed(&public, b"texT", &signature));
        assert!(!is_signed(&public[1..], b"text", &signature));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(SigningKey::open(&path), Err(KeyError::Exposed(_))));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(SigningKey::open(&path), Err(KeyError::Malformed(_))));
    }
}
