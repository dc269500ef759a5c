//! The list of tenants, and how one is made.

use meridian_model::ids::TenantId;
use redis::Value;

use super::{LAYOUT, RedisLedger, Script, record, status, values};
use crate::LedgerError;

/// What `meta.seal` holds under the seal.
pub(super) const SEAL_TEXT: &[u8] = b"meridian ledger";
/// What the seal is bound to.
pub(super) const SEAL_PLACE: &[u8] = b"seal";

/// Why a store cannot be made a ledger.
#[derive(Debug, thiserror::Error)]
pub enum InitialiseError {
    /// It holds a ledger of this prefix, or what is left of one.
    #[error("the Redis holds a ledger of this deployment already, or what is left of one")]
    Present,
    /// The ledger's key seals nothing.
    #[error("the key seals nothing")]
    Key,
    /// It cannot be asked.
    #[error("the Redis cannot be asked")]
    Ledger(#[from] LedgerError),
}

/// The error for a tenant that the list knows and that is not there.
pub(super) fn lost() -> LedgerError {
    LedgerError::Recovering("the data of a known tenant is gone".to_owned())
}

impl RedisLedger {
    async fn on_tenants(&self, verb: &str, args: &[&[u8]]) -> Result<Value, LedgerError> {
        let (meta, tenants) = (self.keys.common("meta"), self.keys.common("tenants"));
        let mut all: Vec<&[u8]> = vec![verb.as_bytes()];
        all.extend_from_slice(args);
        self.redis.eval_unguarded(&self.scripts.tenants, &[&meta, &tenants], &all).await
    }

    /// Makes an empty store a ledger. Whoever calls it vouches that nothing of the deployment is anywhere else: no cloud
    /// has an instance of it, or a rebuild follows.
    ///
    /// # Errors
    /// [`InitialiseError`]; nothing was changed then.
    pub async fn initialise(&self) -> Result<(), InitialiseError> {
        let seal = self.sealer.seal(SEAL_PLACE, SEAL_TEXT).map_err(|_| InitialiseError::Key)?;
        let layout = LAYOUT.to_string();
        let answer = self.on_tenants("initialise", &[layout.as_bytes(), &seal]).await?;
        if status(&answer).as_deref() == Some("made") { Ok(()) } else { Err(InitialiseError::Present) }
    }

    /// Whether the store was ever made a ledger, as it stands now. Compares layout and seal if it was.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when another version made it, or with another key.
    pub async fn is_initialised(&self) -> Result<bool, LedgerError> {
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.keys.common("meta")).arg("layout").arg("seal");
        let answer = self.redis.command(&ask).await?;
        let parts = values::list(&answer).unwrap_or_default();
        let (Some(layout), Some(seal)) = (parts.first().and_then(values::number), parts.get(1).and_then(values::bytes))
        else {
            return Ok(false);
        };
        if layout != u64::from(LAYOUT) {
            let detail = format!("layout {layout}, this version reads {LAYOUT}");
            return Err(record::damaged("meta", detail));
        }
        if self.sealer.open(SEAL_PLACE, seal).is_err() {
            return Err(record::damaged("meta", "sealed with another key; give the key that it was made with"));
        }
        Ok(true)
    }

    /// All tenants, in order.
    pub(super) async fn list_tenants(&self) -> Result<Vec<TenantId>, LedgerError> {
        let answer = self.on_tenants("all", &[]).await?;
        let names = values::list(&answer).and_then(|parts| values::texts(parts.get(1)?)).unwrap_or_default();
        let parsed: Result<Vec<_>, _> = names.iter().map(TenantId::new).collect();
        let mut tenants = parsed.map_err(|e| record::damaged("tenants", e.to_string()))?;
        tenants.sort();
        if tenants.is_empty() {
            // There is no other guard to ask.
            self.redis.proved();
        }
        Ok(tenants)
    }

    /// Errs unless a tenant that the store does not know is one that it never knew.
    pub(super) async fn confirm_new(&self, tenant: &TenantId) -> Result<(), LedgerError> {
        let answer = self.on_tenants("state", &[tenant.as_str().as_bytes()]).await?;
        match status(&answer).as_deref() {
            Some("none" | "joining") => Ok(()),
            _ => Err(lost()),
        }
    }

    /// Makes a tenant; does nothing to one that is there.
    pub(super) async fn enrol(&self, tenant: &TenantId) -> Result<(), LedgerError> {
        let name = tenant.as_str().as_bytes();
        let meta = self.keys.meta(tenant);
        let join = async |script: &Script, verb: &[u8]| {
            let answer = self.redis.eval_unguarded(script, &[&meta], &[verb]).await?;
            Ok::<_, LedgerError>(status(&answer))
        };
        let listed = async |verb: &str| Ok::<_, LedgerError>(status(&self.on_tenants(verb, &[name]).await?));
        if listed("enrol").await?.as_deref() != Some("ready") {
            let begun = join(&self.scripts.join, b"begin").await?;
            if begun.as_deref() == Some("there") {
                // Another was faster; then it is listed.
                return match listed("state").await?.as_deref() {
                    Some("ready") => Ok(()),
                    _ => Err(LedgerError::Recovering("a tenant that is not listed has data".to_owned())),
                };
            }
            let before = listed("ready").await?;
            if begun.as_deref() == Some("made") && before.as_deref() == Some("ready") {
                // Another finished while this one was between its steps. Either it finished what was made here, or it
                // made its own and that is lost: then the mark stays, and nothing is written.
                return Ok(());
            }
        }
        match join(&self.scripts.join, b"end").await?.as_deref() {
            Some("done") => Ok(()),
            _ => Err(lost()),
        }
    }
}
