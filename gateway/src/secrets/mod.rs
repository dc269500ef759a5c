//! The vendors' credentials: where they stand, and how new ones take the place of old ones without a restart.
//!
//! [`source`] reads one secret, [`settings`] those of a backend, and [`rotate`] does so again and again: what has changed
//! makes a new adapter of the same settings, which takes the old one's place below the region stack. Breakers, turns and
//! connections stay, and calls under way end with the adapter that they began with. What cannot be read, makes no adapter
//! or is refused by the vendor changes nothing and says so (ADR 0023).
//!
//! Nothing here knows tenants: a tenant's own account is a backend of its own (`tenants` of a backend).

pub mod rotate;
pub mod settings;
pub mod source;
