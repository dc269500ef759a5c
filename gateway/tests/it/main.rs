//! Integration tests of the gateway: real stacks over loopback sockets.

mod admin;
mod config;
mod create;
mod edge;
mod lists;
mod server;
mod support;
