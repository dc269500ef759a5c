//! What a request writes and the driver then carries on: both happen in a task of the driver, and the request only
//! waits for it. A client that goes away, or a deadline, between the write and the start of the drive would leave a
//! record that this process owns and nobody drives.

use std::{future::Future, sync::Arc};

use meridian_ledger::{Claim, Claimed, LedgerError};
use meridian_model::{
    ids::{OperationId, TenantId},
    operation::OperationRecord,
};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::driver::{Driver, Followed};

/// A record as it was written or joined, and where its changes show; none when nothing more follows, or when it could
/// not be found out who drives it.
pub type Begun = (Box<OperationRecord>, Option<Followed>);

/// The answer to a claim.
#[derive(Debug)]
pub enum Taken {
    /// The claim is new and is being driven.
    New(Begun),
    /// The same request was claimed before.
    Joined(Begun),
    /// The key was used with another request.
    KeyReused,
    /// Another operation holds the instance name.
    NameTaken,
}

impl Driver {
    /// Runs work to its end whether or not anybody waits for it. `None`: it panicked.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, waiting) = oneshot::channel();
        let work = async move {
            // Who asked may be gone.
            let _ = done.send(work.await);
        };
        self.0.tasks.spawn(work.in_current_span());
        waiting.await.ok()
    }

    /// Claims, and has driven what was claimed or joined.
    ///
    /// # Errors
    /// The ledger's, for the claim. One that ends [`LedgerError::Unanswered`] and was written is found in the feed and
    /// driven then.
    pub async fn claim(&self, wish: Claim) -> Result<Taken, LedgerError> {
        let driver = self.clone();
        let work = async move {
            Ok(match driver.0.parts.ledger.claim(wish).await? {
                Claimed::New(record) => {
                    let followed = driver.start(record.clone());
                    Taken::New((record, Some(followed)))
                }
                Claimed::Joined(record) if record.state.is_final() => Taken::Joined((record, None)),
                Claimed::Joined(record) => Taken::Joined(driver.followed(record).await),
                Claimed::KeyReused(_) => Taken::KeyReused,
                Claimed::NameTaken(_) => Taken::NameTaken,
            })
        };
        self.to_the_end(work).await.unwrap_or_else(fallen)
    }

    /// Asks for the removal of an instance and has it carried out; with a reason for its owner, unless a caller wants it.
    /// `None`: there is no such operation.
    ///
    /// # Errors
    /// The ledger's, for the wish; as for [`Driver::claim`].
    pub async fn remove(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        reason: Option<String>,
    ) -> Result<Option<Begun>, LedgerError> {
        let (driver, tenant, op) = (self.clone(), tenant.clone(), op.clone());
        let work = async move {
            let parts = &driver.0.parts;
            let asked = parts.ledger.request_removal(&tenant, &op, parts.clock.now(), reason.as_deref());
            let Some(record) = asked.await? else {
                return Ok(None);
            };
            parts.fleet.put(Arc::new((*record).clone()));
            Ok(Some(if record.is_gone() { (record, None) } else { driver.followed(record).await }))
        };
        self.to_the_end(work).await.unwrap_or_else(fallen)
    }

    /// Has a durable record driven. Whatever the ledger says now does not change that it was accepted: somebody will
    /// find it due.
    async fn followed(&self, record: Box<OperationRecord>) -> Begun {
        match self.adopt(record.clone()).await {
            Ok(followed) => (record, Some(followed)),
            Err(error) => {
                tracing::warn!(%error, meridian.operation.id = %record.op_id, "it is not known who drives it");
                (record, None)
            }
        }
    }
}

/// The task of a write panicked; what it did is in the ledger.
fn fallen<T>() -> Result<T, LedgerError> {
    Err(LedgerError::Unanswered("the task that asked it panicked".to_owned()))
}
