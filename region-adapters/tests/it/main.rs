//! Integration tests: the shared client on real sockets, and the conformance suite of every adapter against
//! the simulated clouds.

#[cfg(test)]
mod alibaba;
#[cfg(test)]
mod http;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tencent;
#[cfg(test)]
mod tencent_scripted;
#[cfg(test)]
mod tls;
