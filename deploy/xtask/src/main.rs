//! Project tasks: tests, tidy, licences.

fn main() {}
