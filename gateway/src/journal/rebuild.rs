//! The rebuild of a shared ledger that lost writes.

pub mod merge;
