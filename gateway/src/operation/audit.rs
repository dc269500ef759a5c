//! Reads the audit log of this gateway.

use super::{Caller, ListAudit, Outcome, Reach, Refusal};
use crate::{
    audit::{query::Found, record::AuditRecord},
    core::Core,
    views,
};
use meridian_model::error::ErrorCode;

/// Members that say how much is recorded of others.
const OF_THE_CHAIN: [&str; 3] = ["seq", "hash", "prevHash"];

/// A page of what a caller may see, newest first.
///
/// # Errors
/// The files of the log cannot be read.
pub async fn page(core: &Core, caller: &Caller, reach: &Reach, wish: ListAudit) -> Result<Outcome, Refusal> {
    let ListAudit { page, mut filter, .. } = wish;
    filter.tenant = match reach {
        Reach::Tenant(tenant) => Some(tenant.to_string()),
        Reach::All => None,
    };
    let audit = core.driver.audit();
    let before = page.after.as_deref().and_then(|seq| seq.parse().ok());
    let found = audit.search(filter, before, page.size).await.map_err(|error| {
        let mut refusal = Refusal::new(ErrorCode::StoreUnavailable, "the audit log cannot be read now");
        refusal.internal = Some(error.to_string());
        refusal
    })?;
    let Found { items, before } = found;
    let of_platform = caller.tenant().is_none();
    let shown = |mut record: serde_json::Value| {
        // A tenant that saw the numbers of its records would see how many others have.
        if let Some(members) = record.as_object_mut().filter(|_| !of_platform) {
            OF_THE_CHAIN.iter().for_each(|member| drop(members.remove(*member)));
        }
        AuditRecord(record)
    };
    let view = views::AuditPage {
        items: items.into_iter().map(shown).collect(),
        next_page_token: None,
        chain: audit.chain().map(str::to_owned),
        complete: audit.is_on() && !core.is_shared,
        heads: if of_platform { audit.heads() } else { Vec::new() },
    };
    Ok(Outcome::Audit(Box::new(view), before.map(|seq| seq.to_string())))
}
