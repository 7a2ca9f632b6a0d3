//! No pure decision gets dearer unnoticed: instructions under valgrind, compared with those on record.

#![expect(clippy::expect_used, reason = "what is missing is to be said")]

use std::fmt::Write as _;
use std::process::Command;

use bench::instructions::Subject;

/// Instructions of this build, which is not optimised: `diff 12345678`. A change that costs a twentieth more is written
/// down here, with its reason in the commit.
const BASELINE: &str = include_str!("../instructions.txt");

#[test]
fn no_decision_takes_more_instructions_than_recorded() {
    let (mut found, mut grown) = (String::new(), Vec::new());
    for subject in Subject::ALL {
        let count = instructions(subject, 1) - instructions(subject, 0);
        writeln!(found, "{} {count}", subject.name()).unwrap();
        if count > recorded(subject) / 20 * 21 {
            grown.push(format!("{}: {count} instead of {}", subject.name(), recorded(subject)));
        }
    }
    println!("{found}");
    assert!(grown.is_empty(), "{grown:?}; if there is a reason, bench/instructions.txt becomes\n{found}");
}

/// What the baseline says; nothing is allowed that is not on record.
fn recorded(subject: Subject) -> u64 {
    let lines = BASELINE.lines().filter_map(|line| line.split_once(' '));
    let mut counts = lines.filter(|(name, _)| *name == subject.name());
    counts.next().map_or(0, |(_, count)| count.parse().expect("a number"))
}

fn instructions(subject: Subject, times: u32) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", env!("CARGO_BIN_EXE_instructions")])
        .args([subject.name(), &times.to_string()])
        .output()
        .expect("valgrind, which ./setup.sh installs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // "==123== Collected : 12345678"
    let count = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.unwrap_or_else(|| panic!("valgrind counted nothing: {said}"))
}
