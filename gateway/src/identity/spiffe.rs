//! The SPIFFE identity of a client certificate (X509-SVID): one URI SAN, and what that URI may look like.
//!
//! The chain was verified in the handshake; here is only read what it says. Rules of the SPIFFE standards
//! ("SPIFFE-ID" sections 2 and 3, "X509-SVID" sections 2 and 4.1, read 2026-11): exactly one URI SAN; a trust domain of
//! lower-case letters, digits, `.`, `-` and `_`; no port, user, query or fragment; path segments of letters, digits, `.`,
//! `-` and `_`, none of them empty, `.` or `..`; a leaf certificate is not one of an authority.

use std::fmt;

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Longest SPIFFE ID in bytes that every implementation has to take.
const ID_LEN_MAX: usize = 2048;
/// Longest trust domain.
const TRUST_DOMAIN_LEN_MAX: usize = 255;

/// A well-formed SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(String);

/// Why a certificate has no identity for us; for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be parsed.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It may sign others.
    #[error("the certificate is an authority's")]
    Authority,
    /// No URI SAN, or more than one.
    #[error("the certificate has not exactly one URI SAN")]
    NotOneUri,
    /// The URI is no SPIFFE ID.
    #[error("the URI SAN is not a SPIFFE ID")]
    NotSpiffe,
}

impl SpiffeId {
    /// Reads an ID.
    ///
    /// # Errors
    /// [`Fault::NotSpiffe`].
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= ID_LEN_MAX).ok_or(Fault::NotSpiffe)?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let of_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        let of_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let domain_holds = !domain.is_empty() && domain.len() <= TRUST_DOMAIN_LEN_MAX && domain.bytes().all(of_domain);
        let path_holds = path
            .split('/')
            .skip(1)
            .all(|segment| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(of_path));
        if domain_holds && path_holds { Ok(Self(text.to_owned())) } else { Err(Fault::NotSpiffe) }
    }

    /// The identity of a certificate in DER.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, Fault> {
        let (_, certificate) = parse_x509_certificate(der).map_err(|_| Fault::Unreadable)?;
        if certificate.is_ca() {
            return Err(Fault::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|_| Fault::Unreadable)?.ok_or(Fault::NotOneUri)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri),
            _ => Err(Fault::NotOneUri),
        }
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which IDs are meant: one ID, or all below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    below: bool,
}

impl Pattern {
    /// Reads `spiffe://DOMAIN/PATH` or `spiffe://DOMAIN/PATH/*`.
    ///
    /// # Errors
    /// [`Fault::NotSpiffe`].
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (id, below) = text.strip_suffix("/*").map_or((text, false), |id| (id, true));
        SpiffeId::parse(id).map(|id| Self { text: id.0, below })
    }

    /// The trust domain of all IDs that are meant.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        let rest = self.text.strip_prefix("spiffe://").unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }

    /// Whether the ID is meant. `/*` stands for one or more whole segments.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match id.0.strip_prefix(&self.text) {
            Some("") => !self.below,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.below { "/*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[SanType], authority: bool) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn an_id_is_what_the_standard_says() {
        for good in ["spiffe://a", "spiffe://acme.example/ns/ci/sa/x_1", "spiffe://a-b_c.9/Ab/..c"] {
            assert_eq!(SpiffeId::parse(good).map(|id| id.0), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe:///x",
            "https://a/x",
            "SPIFFE://a/x",
            "spiffe://A/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/",
            "spiffe://a//x",
            "spiffe://a/x/",
            "spiffe://a/./x",
            "spiffe://a/../x",
            "spiffe://a/x?y",
            "spiffe://a/x#y",
            "spiffe://a/%41",
            "spiffe://ä/x",
            "spiffe://a/x y",
        ] {
            assert_eq!(SpiffeId::parse(bad), Err(Fault::NotSpiffe), "{bad}");
        }
        assert!(SpiffeId::parse(&format!("spiffe://a/{}", "x".repeat(ID_LEN_MAX))).is_err());
    }

    #[test]
    fn a_certificate_has_one_identity_or_none() {
        let (one, other) = (uri("spiffe://acme.example/ci"), uri("spiffe://acme.example/cd"));
        let dns = SanType::DnsName("web.example".try_into().unwrap());
        let read = |names: &[SanType], authority| SpiffeId::of_certificate(&certificate(names, authority));
        assert_eq!(read(&[dns.clone(), one.clone()], false), SpiffeId::parse("spiffe://acme.example/ci"));
        assert_eq!(read(&[one.clone(), other], false), Err(Fault::NotOneUri));
        assert_eq!(read(&[dns], false), Err(Fault::NotOneUri));
        assert_eq!(read(&[], false), Err(Fault::NotOneUri));
        assert_eq!(read(&[uri("https://acme.example/ci")], false), Err(Fault::NotSpiffe));
        assert_eq!(read(&[one], true), Err(Fault::Authority));
        assert_eq!(SpiffeId::of_certificate(b"no certificate"), Err(Fault::Unreadable));
    }

    #[test]
    fn a_pattern_means_whole_segments() {
        let id = |text| SpiffeId::parse(text).unwrap();
        let (exact, below) = (Pattern::parse("spiffe://a/ci").unwrap(), Pattern::parse("spiffe://a/ci/*").unwrap());
        for (text, by_exact, by_below) in [
            ("spiffe://a/ci", true, false),
            ("spiffe://a/ci/x", false, true),
            ("spiffe://a/ci/x/y", false, true),
            ("spiffe://a/cix", false, false),
            ("spiffe://ab/ci", false, false),
        ] {
            assert_eq!((exact.matches(&id(text)), below.matches(&id(text))), (by_exact, by_below), "{text}");
        }
        assert!(Pattern::parse("spiffe://a/*").unwrap().matches(&id("spiffe://a/x")));
        assert!(!Pattern::parse("spiffe://a/*").unwrap().matches(&id("spiffe://ab/x")));
        assert!(Pattern::parse("spiffe://*").is_err());
        assert_eq!(below.to_string(), "spiffe://a/ci/*");
        assert_eq!(
            [&exact, &below, &Pattern::parse("spiffe://b.c/*").unwrap()].map(Pattern::trust_domain),
            ["a", "a", "b.c"]
        );
    }
}
