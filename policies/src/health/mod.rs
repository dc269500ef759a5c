//! What we remember of faults: circuit breakers, sold-out memory, ejected zones (RELIABILITY section 3).
//!
//! Three memories, because three things go wrong:
//! - [`breaker`]: a *backend* does not answer or answers nonsense. Hard: while open, only probes pass.
//! - [`sold_out`]: a *zone* has no stock of one shape. Soft: a memory must not be the only reason of a refusal.
//! - [`eject`]: a *zone* fails while its backend as a whole answers. Soft, and ignored when most zones would go.
//!
//! All are plain data with functions of `now` (and a seed for jitter). They survive no restart: a gateway that
//! forgot asks once more and learns it again, which is cheaper than a stale memory on disk.

pub mod breaker;
pub mod eject;
pub mod sold_out;

pub use breaker::{Breaker, BreakerSettings, BreakerView, CallClass, Outcome, Permit, Ticket};
pub use eject::ZoneEjections;
pub use sold_out::{ShapeClass, SoldOutMemory};

use meridian_model::ids::{BackendId, ZoneId};

/// A zone at a backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneKey {
    /// The backend.
    pub backend: BackendId,
    /// The zone, in the vendor's spelling.
    pub zone: ZoneId,
}

impl ZoneKey {
    /// The zone `zone` at `backend`.
    #[must_use]
    pub const fn new(backend: BackendId, zone: ZoneId) -> Self {
        Self { backend, zone }
    }
}
