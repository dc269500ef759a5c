//! Open-loop load tests and reports.

fn main() {}
