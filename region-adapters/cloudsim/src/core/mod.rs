//! The deterministic core: the whole behaviour of the simulated clouds without sockets, clocks or threads.
//!
//! [`World`] is the entry. Time (`now_ms`, Unix milliseconds) is an argument of every call; random draws come from the
//! scenario's seed. Vendor words for errors and replies live in the faces; the core speaks of instances, stock,
//! quota, addresses, faults and the truth ledger. Deliberately absent: I/O, serialisation to vendor shapes, limits
//! per second (they belong to the rim, which counts real requests).

mod calls;
mod change;
mod create;
mod fault;
mod images;
mod keep;
mod keys;
mod machine;
mod program;
mod rng;
mod specs;
mod truth;
pub(crate) mod types;
mod world;
mod zone;

pub use calls::Calls;
pub use change::{ChangeError, ExitOrder};
pub use create::{CreateError, Placement};
pub use fault::{
    After, FAULTS_MAX, Fault, FaultInput, FaultKind, Faults, FieldError, Outage, Refusal, SPEC_KEYS, ServerError,
    Subject, Verdict,
};
pub use images::{IMAGE_CACHE_GIB_DEFAULT, IMAGE_CACHES_MAX};
pub use keep::Tags;
pub use keys::AccountKey;
pub use machine::EVENTS_MAX;
pub use program::{LOG_LINES_MAX, LogLine, Program, log_of, log_of_life};
pub use rng::Rng;
pub use specs::{
    ALIBABA_DEFAULT, INSTANCE_TYPES, InstanceType, all_specs, instance_type, is_spec_key, round_spec, spec_key,
};
pub use truth::TruthEntry;
pub use types::*;
pub use world::{LimitChange, Quota, Record, Region, StockChange, TokenCheck, TokenKey, TokenRecord, World};
pub use zone::Zone;

#[cfg(test)]
mod tests;
