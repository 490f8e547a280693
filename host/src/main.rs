//! dacapo.
fn main() {}
