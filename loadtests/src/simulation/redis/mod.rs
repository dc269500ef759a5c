//! A Redis of one's own: enough of its commands for the ledger's scripts, which run as they are, in a real Lua 5.1.
//!
//! What it has that a real one has not: time that is handed in, and a failover that loses the last writes that were
//! acknowledged, at will. A test runs one list of commands against this and a real server and compares every answer.
//!
//! Absent: persistence, eviction, transactions, more than one database, RESP3, and every command that nobody here uses.

pub mod commands;
pub mod keyspace;
pub mod lua;
pub mod resp;
pub mod server;
pub mod store;
