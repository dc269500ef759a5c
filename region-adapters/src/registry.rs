//! The adapters by name.
