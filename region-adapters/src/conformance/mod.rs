//! The suite that every adapter passes, and the parts of it that need no network.

pub mod mapping;
