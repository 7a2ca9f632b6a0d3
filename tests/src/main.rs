//! `make demo`: see [`tests::demo`].

use std::process::ExitCode;

use clap::Parser;
use tests::demo;

fn main() -> ExitCode {
    demo::run(&demo::Arguments::parse())
}
