//! Integration tests of the gateway: real stacks over loopback sockets.

mod config;
