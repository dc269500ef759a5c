//! Byte streams to a Redis: the seam under which a simulation puts its own network, and TLS over it.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::options::{Address, Tls};

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// The future of a [`Connect`].
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Opens byte streams to servers.
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Opens one. The caller bounds the time and drops the future when it is over.
    fn connect<'a>(&'a self, address: &'a Address) -> Connecting<'a>;
}

/// Opens TCP connections, without delay of small segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnect;

impl Connect for TcpConnect {
    fn connect<'a>(&'a self, address: &'a Address) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// TLS over the streams of another.
pub(super) struct TlsConnect {
    inner: Arc<dyn Connect>,
    tls: tokio_rustls::TlsConnector,
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl TlsConnect {
    /// # Errors
    /// What is wrong with the certificates or the key.
    pub(super) fn new(inner: Arc<dyn Connect>, tls: &Tls) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots(tls)?);
        let config = match &tls.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                    .map_err(|e| format!("the client's key: {e}"))?;
                builder
                    .with_client_auth_cert(certificates(chain)?, key)
                    .map_err(|e| format!("the client's certificate: {e}"))?
            }
        };
        Ok(Self { inner, tls: tokio_rustls::TlsConnector::from(Arc::new(config)) })
    }
}

impl Connect for TlsConnect {
    fn connect<'a>(&'a self, address: &'a Address) -> Connecting<'a> {
        Box::pin(async move {
            let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
            let stream = self.inner.connect(address).await?;
            let stream = self.tls.connect(name, stream).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = parsed.map_err(|e| format!("a certificate: {e}"))?;
    if certificates.is_empty() { Err("there is no certificate".to_owned()) } else { Ok(certificates) }
}

fn roots(tls: &Tls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        Some(pem) => {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|e| format!("an authority: {e}"))?;
            }
        }
        // Some of a system's authorities may be unreadable; none at all is an error.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err("there is no authority to trust".to_owned()) } else { Ok(roots) }
}
