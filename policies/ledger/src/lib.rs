//! Durable operations, idempotency and usage.
