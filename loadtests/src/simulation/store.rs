//! Which ledger the gateways of a history share.

use std::{rc::Rc, sync::Arc};

use meridian_gateway::clock::{Clock, Entropy};
use meridian_ledger::{Ledger, conformance::MemoryLedger, recovery::Recovery};

use super::{gateways::Machine, net::Host};

/// The shared ledger.
#[derive(Clone)]
pub enum Store {
    /// In memory: never lost, never away. For looking at everything but the ledger.
    Memory(Arc<MemoryLedger>),
}

/// The ledger as one process of a gateway sees it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Operations and usage.
    pub ledger: Arc<dyn Ledger>,
    /// How it is rebuilt.
    pub recovery: Option<Arc<dyn Recovery>>,
}

impl Store {
    /// Opens the ledger for one process of a gateway.
    ///
    /// # Errors
    /// It cannot be used.
    pub async fn open(&self, _: &Rc<Machine>, _: &Host, _: (&Clock, &Entropy)) -> anyhow::Result<Opened> {
        match self {
            Self::Memory(ledger) => Ok(Opened { ledger: Arc::clone(ledger) as _, recovery: None }),
        }
    }
}
