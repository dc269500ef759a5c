//! The `meridian` binary: arguments, crypto provider, dispatch, exit code; nothing else.

fn main() {}
