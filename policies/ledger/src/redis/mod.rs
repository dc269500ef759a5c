//! The Redis ledger: for several gateways on one store (RELIABILITY 2.9).

mod connect;
#[allow(dead_code, reason = "used by the ledger that follows")]
mod dial;
#[allow(dead_code, reason = "used by the ledger that follows")]
mod link;
mod options;
mod shared;
#[cfg(test)]
mod tests;
#[allow(dead_code, reason = "used by the ledger that follows")]
mod values;

pub use self::{
    connect::{Connect, Connecting, Stream, TcpConnect},
    link::{Acks, Redis, Script},
    options::{Address, Options, Servers, Tls, User},
    shared::RedisShared,
};
