//! TLS of a listener: its certificate, who may connect with which certificate, and their replacement while it runs.
//!
//! Certificates of a mesh live for an hour or a day and are replaced on disk by an agent. So the files are looked at every
//! `reloadInterval`; when what they hold has changed and makes a server, new connections get it. A file that cannot be
//! used changes nothing and is said in the log. Connections live for `connectionAgeMax` at most, and with them what their
//! handshake has proved: where clients show certificates, each handshake verifies them, and none is resumed.

use std::{io, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use super::ServeError;
use crate::{
    config::{ClientAuth, Tls},
    identity::spiffe::SpiffeId,
    telemetry::{Metrics, ReloadLabels, seldom::Seldom},
};

/// TLS as it is now.
#[derive(Debug)]
pub(super) struct Terminator {
    tls: Tls,
    current: ArcSwap<ServerConfig>,
    /// Of the files, taken before they were read: what changes afterwards differs from it.
    first: Option<[u8; 32]>,
    metrics: Arc<Metrics>,
}

impl Terminator {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ServeError::Pem`], [`ServeError::Tls`].
    pub(super) fn new(tls: &Tls, metrics: Arc<Metrics>) -> Result<Self, ServeError> {
        let first = digest(tls).ok();
        Ok(Self { tls: tls.clone(), current: ArcSwap::from_pointee(server(tls)?), first, metrics })
    }

    /// What accepts the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files again and again; ends only by being dropped.
    pub(super) async fn follow(self: Arc<Self>) {
        let (mut seen, mut seldom) = (self.first, Seldom::default());
        loop {
            tokio::time::sleep(self.tls.reload_interval.0).await;
            let found = self.look().await;
            if found == seen {
                continue;
            }
            let terminator = Arc::clone(&self);
            match blocking(move || server(&terminator.tls).map_err(|e| with_source(&e))).await {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    seldom.over();
                    seen = found;
                    self.count("taken");
                    tracing::info!("the listener has its new TLS certificates");
                }
                // Looked at again: a file may be half written.
                Err(error) => {
                    self.count("refused");
                    if seldom.is_due(&error) {
                        tracing::warn!(error, "the changed TLS certificates cannot be used; the former ones go on");
                    }
                }
            }
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.tls_reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// A digest of what the files hold; none when one of them cannot be read.
    async fn look(self: &Arc<Self>) -> Option<[u8; 32]> {
        let terminator = Arc::clone(self);
        blocking(move || digest(&terminator.tls).map_err(|e| e.to_string())).await.ok()
    }
}

/// Runs what waits for a disk where it keeps nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn with_source(error: &ServeError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn digest(tls: &Tls) -> io::Result<[u8; 32]> {
    let mut all = Sha256::new();
    let files = [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref(), tls.client_crl_file.as_ref()];
    for file in files.into_iter().flatten() {
        let content = std::fs::read(file)?;
        all.update(content.len().to_be_bytes());
        all.update(content);
    }
    Ok(all.finalize().into())
}

/// TLS of a certificate and its key: TLS 1.3 preferred, 1.2 with AEAD suites only, HTTP/2 or HTTP/1.1 by ALPN.
fn server(tls: &Tls) -> Result<ServerConfig, ServeError> {
    let chain: Vec<CertificateDer<'static>> = pem_items(&tls.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(|e| unusable(&tls.key_file, e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(ServeError::Tls)?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => builder.with_client_cert_verifier(verifier(file, tls, provider)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(ServeError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if tls.client_ca_file.is_some() {
        // A resumed session takes over the certificate of the handshake before, and the session after it again: nobody would
        // see that it has ended or is withdrawn.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// Verifies client certificates against a bundle and, if there is one, a list of revoked ones.
fn verifier(
    bundle: &Path,
    tls: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, ServeError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem_items::<CertificateDer<'static>>(bundle)? {
        roots.add(certificate).map_err(|e| unusable(bundle, e))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(file) = &tls.client_crl_file {
        builder = builder.with_crls(pem_items::<CertificateRevocationListDer<'static>>(file)?);
    }
    if tls.client_auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|e| unusable(bundle, e))
}

fn pem_items<T: rustls_pki_types::pem::PemObject>(file: &Path) -> Result<Vec<T>, ServeError> {
    let items: Vec<T> = T::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| unusable(file, e))?;
    if items.is_empty() { Err(unusable(file, "nothing in it is of the kind wanted")) } else { Ok(items) }
}

fn unusable(file: &Path, reason: impl std::fmt::Display) -> ServeError {
    ServeError::Pem { file: file.display().to_string(), reason: reason.to_string() }
}

/// The identity of who connected, if it showed a certificate that has one.
pub(super) fn identity(connection: &rustls::ServerConnection) -> Option<Arc<SpiffeId>> {
    let leaf = connection.peer_certificates()?.first()?;
    match SpiffeId::of_certificate(leaf) {
        Ok(id) => Some(Arc::new(id)),
        Err(fault) => {
            tracing::debug!(%fault, "a client certificate has no identity");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    }

    #[tokio::test]
    async fn files_that_change_before_they_are_followed_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let tls = Tls {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
            client_ca_file: None,
            client_crl_file: None,
            client_auth: ClientAuth::Optional,
            reload_interval: meridian_model::quantity::Span(Duration::from_millis(1)),
        };
        let terminator = Arc::new(Terminator::new(&tls, Metrics::new()).unwrap());
        let first = terminator.current.load_full();
        write(folder.path());
        let taken = async {
            while Arc::ptr_eq(&first, &terminator.current.load_full()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = Arc::clone(&terminator).follow() => panic!("it follows for ever"),
            taken = tokio::time::timeout(Duration::from_secs(20), taken) => taken.unwrap(),
        }
    }
}
