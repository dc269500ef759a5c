//! Identities that others vouch for: tokens of OpenID Connect issuers, and certificates with a SPIFFE ID.
//!
//! Here is found out who somebody is and which grant of the operator's that meets; what may be done with it is decided
//! where every credential is (`http/authenticate.rs`, `operation/authorize.rs`). API keys are not here: they are our own.

pub mod grant;
pub mod issuer;
pub mod jwks;
#[cfg(test)]
mod signer;
pub mod spiffe;
pub mod token;

use std::sync::Arc;

use meridian_adapters::http::HttpClient;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    grant::{Grant, SpiffeGrant},
    issuer::{Issuer, Rules},
    spiffe::SpiffeId,
    token::Fault,
};
use crate::{clock::Clock, telemetry::identity::IdentityMetrics};

/// Everybody whose word is taken.
#[derive(Debug, Default)]
pub struct Identities {
    issuers: Vec<Arc<Issuer>>,
    spiffe: Vec<SpiffeGrant>,
}

impl Identities {
    /// The issuers with their rules, and the grants to certificates.
    #[must_use]
    pub fn new(
        (issuers, spiffe): (Vec<Rules>, Vec<SpiffeGrant>),
        http: &HttpClient,
        clock: &Clock,
        metrics: &IdentityMetrics,
    ) -> Arc<Self> {
        let issuer = |rules| Issuer::new(rules, http.clone(), clock.clone(), metrics.clone());
        let issuers = issuers.into_iter().map(issuer).collect();
        Arc::new(Self { issuers, spiffe })
    }

    /// Starts to keep the issuers' keys fresh.
    pub fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        for issuer in &self.issuers {
            tasks.spawn(Arc::clone(issuer).run(stop.clone()));
        }
    }

    /// The issuers.
    #[must_use]
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// The issuer that a token says it is of, if we know it.
    ///
    /// # Errors
    /// [`Fault`]: it is no token, or of nobody we know.
    pub fn issuer_of(&self, token: &str) -> Result<&Arc<Issuer>, Fault> {
        let claimed = token::claimed_issuer(token)?;
        self.issuers.iter().find(|issuer| issuer.issuer() == claimed).ok_or(Fault::Issuer)
    }

    /// How all issuers stand, for who operates the gateway.
    ///
    /// # Errors
    /// Tokens of one of them cannot be checked.
    pub fn standing(&self) -> Result<String, String> {
        let all: Vec<_> = self.issuers.iter().map(|issuer| issuer.standing()).collect();
        let is_well = all.iter().all(Result::is_ok);
        let told: Vec<String> = all.into_iter().map(|one| one.unwrap_or_else(|why| why)).collect();
        let told = told.join("; ");
        if is_well { Ok(told) } else { Err(told) }
    }

    /// What a certificate's identity may act as.
    #[must_use]
    pub fn of_spiffe(&self, id: &SpiffeId) -> Option<&Grant> {
        grant::of_spiffe(&self.spiffe, id)
    }
}
