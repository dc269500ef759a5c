//! Adapters to the vendors' container-instance APIs.
