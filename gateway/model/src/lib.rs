//! The unified instance model.
//!
//! Every other crate speaks in these types: what a tenant asks for ([`instance::InstanceSpec`]), what a
//! backend was last seen to run ([`status::Observed`]), what a backend can do
//! ([`capability::Capability`]), what the ledger remembers ([`operation::OperationRecord`]) and what may
//! go wrong ([`error::ErrorCode`]). There is no I/O here, no clock and no randomness: a time is always an
//! argument.

pub mod bugs;
pub mod capability;
pub mod error;
pub mod ids;
pub mod instance;
pub mod operation;
pub mod quantity;
pub mod quota;
pub mod status;
pub mod time;
pub mod validate;
