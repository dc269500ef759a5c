//! The simulated clouds on real sockets.

mod client;
mod control;
mod faults;
mod persist;
mod sdk;
mod tencent;
