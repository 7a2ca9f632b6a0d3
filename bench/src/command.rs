//! The command line: what to measure, progress on standard error, the page on standard output.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use std::process::ExitCode;
use std::time::Instant;

use tests::{Error, Result, wait};

use crate::document::{Document, Place, Section};
use crate::node::Mode;
use crate::{fail_over, front_door, guest, machine, programs, scale, service_path, virtual_services};

/// Figures of this machine's kernel, in namespaces of its own; writes bench/results/ and the README's part. Needs root.
#[derive(Clone, Debug, clap::Parser)]
pub struct Arguments {
    /// What to measure; where it is left out, everything, in less than half an hour.
    #[arg(value_enum)]
    subject: Option<Subject>,
    /// Fewer and shorter rounds: all of it, but for what takes another kernel, in less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Run within a guest: what was measured becomes one line of JSON on standard output and is not recorded.
    #[arg(long, hide = true)]
    in_guest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// What a Service costs on its way, beside nftables and plain routing.
    ServicePath,
    /// The same in a guest whose kernel has the IP virtual server, beside that too.
    Guest,
    /// What the eBPF programs themselves take.
    Programs,
    /// fairway-lb beside HAProxy, nginx and plain routing.
    FrontDoor,
    /// Faults of a master, beside keepalived + HAProxy.
    FailOver,
    /// How the proxy's costs grow with the cluster.
    Programming,
    /// The same in mode ipvs, in a guest.
    ProgrammingIpvs,
    /// Mode ipvs beside ipvsadm, in a guest.
    VirtualServices,
}

impl Subject {
    /// The quickest to fail first.
    const ALL: [Self; 8] = [
        Self::Programs,
        Self::ServicePath,
        Self::Programming,
        Self::FrontDoor,
        Self::FailOver,
        Self::Guest,
        Self::ProgrammingIpvs,
        Self::VirtualServices,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::ServicePath => "service-path",
            Self::Guest => "guest",
            Self::Programs => "programs",
            Self::FrontDoor => "front-door",
            Self::FailOver => "fail-over",
            Self::Programming => "programming",
            Self::ProgrammingIpvs => "programming-ipvs",
            Self::VirtualServices => "virtual-services",
        }
    }

    /// Whether it takes another kernel, in a guest that takes its time.
    const fn takes_a_guest(self) -> bool {
        matches!(self, Self::Guest | Self::ProgrammingIpvs | Self::VirtualServices)
    }
}

/// Measures what was asked for. What fails is said, and keeps nothing else from being measured and written.
pub fn run(arguments: &Arguments) -> ExitCode {
    let start = wait::now();
    let mut exit = ExitCode::SUCCESS;
    for subject in Subject::ALL {
        match arguments.subject {
            Some(wanted) if wanted != subject => continue,
            None if arguments.quick && subject.takes_a_guest() => {
                eprintln!("not run: {}, which a quick run leaves out", subject.name());
                continue;
            }
            Some(_) | None => {}
        }
        let keep = if arguments.in_guest { print } else { record };
        let outcome = measure(subject, arguments, start).and_then(|section| keep(&section));
        if let Err(error) = outcome {
            eprintln!("{}: {error:?}", subject.name());
            exit = ExitCode::FAILURE;
        }
    }
    eprintln!("{:.0} s in all", (wait::now() - start).as_secs_f64());
    exit
}

fn measure(subject: Subject, arguments: &Arguments, start: Instant) -> Result<Section> {
    let quick = arguments.quick;
    let command = format!("make bench BENCH=\"{}{}\"", if quick { "--quick " } else { "" }, subject.name());
    let progress = |line: &str| eprintln!("{:4.0} s  {line}", (wait::now() - start).as_secs_f64());
    Ok(match subject {
        _ if subject.takes_a_guest() && !arguments.in_guest => {
            // A guest does not see who else wants the machine.
            let busy = machine::busy_with_others()?;
            let words = [subject.name(), "--in-guest"].into_iter().chain(quick.then_some("--quick"));
            let mut section = guest::measure(words, progress)?;
            section.note_busy(&[busy]);
            section
        }
        Subject::Guest => service_path::measure(service_path::Plan::IN_GUEST, &command, progress)?.section(),
        Subject::VirtualServices => {
            let rounds = if quick { virtual_services::QUICK_ROUNDS } else { virtual_services::FULL_ROUNDS };
            virtual_services::measure(rounds, &command, progress)?.section()
        }
        Subject::ServicePath => {
            let plan = if quick { service_path::Plan::QUICK } else { service_path::Plan::FULL };
            service_path::measure(plan, &command, progress)?.section()
        }
        Subject::Programs => {
            let rounds = if quick { programs::QUICK_ROUNDS } else { programs::FULL_ROUNDS };
            programs::measure(rounds, &command, progress)?.section()
        }
        Subject::FrontDoor => {
            let plan = if quick { front_door::Plan::QUICK } else { front_door::Plan::FULL };
            front_door::measure(plan, &command, progress)?.section()
        }
        Subject::FailOver => {
            let plan = if quick { fail_over::Plan::QUICK } else { fail_over::Plan::FULL };
            fail_over::measure(plan, &command, progress)?.section()
        }
        Subject::Programming => {
            let rounds = if quick { scale::QUICK_ROUNDS } else { scale::FULL_ROUNDS };
            scale::measure(Mode::Ebpf, rounds, &command, progress)?.section()
        }
        Subject::ProgrammingIpvs => {
            scale::measure(Mode::Ipvs, scale::GUEST_ROUNDS, &command, progress)?.section()
        }
    })
}

/// For whoever started the guest that this is.
fn print(section: &Section) -> Result<()> {
    println!("{}", serde_json::to_string(section).map_err(Error::json("a section"))?);
    Ok(())
}

/// Puts a section into the document beside what others have measured.
fn record(section: &Section) -> Result<()> {
    let place = Place::ours();
    let page = Document { sections: vec![section.clone()] }.page();
    let mut document = Document::read(&place)?;
    document.put(section.clone())?;
    document.write(&place)?;
    println!("{page}");
    Ok(())
}
