//! The demo. It is written on top of the harness of this package.

fn main() {}
