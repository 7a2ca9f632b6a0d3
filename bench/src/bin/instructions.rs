//! Does one kind of pure work, for a tool that counts instructions.

use bench::instructions::Subject;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// What to do.
    subject: Subject,
    /// How often.
    times: u32,
}

fn main() {
    let Arguments { subject, times } = Arguments::parse();
    subject.run(times);
}
