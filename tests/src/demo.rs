//! The demo: a small cluster in network namespaces, and everything that can go wrong with its front door and its proxy.
//!
//! `network` draws the picture; `stages` are what is shown. Each figure comes with what was promised of it, and a
//! broken promise is the demo's failure. It runs in a child process: whatever happens to that, `supervisor` removes
//! what it made.

mod chart;
mod control_plane;
mod figure;
mod load;
mod master;
mod network;
mod screen;
mod site;
mod stages;
mod supervisor;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::{Error, Result, wait};
use figure::{Figure, Report};
use screen::{Screen, Tone};
use site::Site;

/// Shows Fairway at work on this machine's kernel, in network namespaces that are removed afterwards. Needs root.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo")]
pub struct Arguments {
    /// Print nothing but one JSON document with every figure, at the end.
    #[arg(long)]
    json: bool,

    /// Show the two ways the virtual address can move so often, and nothing else.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,

    /// The folder of a supervisor that cleans up: this is its child.
    #[arg(long, value_name = "FOLDER", hide = true)]
    child: Option<PathBuf>,
}

/// 0: every promise was kept. 1: one was broken, or the demo failed. 77: root is missing.
#[expect(clippy::print_stderr, reason = "the one place where the demo says why it ends")]
pub fn run(arguments: &Arguments) -> ExitCode {
    let outcome = match &arguments.child {
        Some(folder) => supervisor::begin_child().and_then(|()| perform(arguments, folder)),
        None => supervisor::supervise(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:?}");
        ExitCode::from(if matches!(error, Error::Privilege { .. }) { 77 } else { 1 })
    })
}

fn perform(arguments: &Arguments, folder: &Path) -> Result<ExitCode> {
    let mut screen = if arguments.json { Screen::hidden() } else { Screen::standard() };
    let start = wait::now();
    let mut site = Site::new(folder)?;
    greet(&site, &mut screen)?;
    let mut figures = stages::arrive(&mut site, &mut screen)?;
    if let Some(rounds) = arguments.rounds {
        figures.extend(stages::again_and_again(&mut site, &mut screen, rounds.into())?);
    } else {
        for stage in stages::ALL {
            figures.extend(stage(&mut site, &mut screen)?);
        }
    }
    let report = Report::new(site.control_plane.name().to_owned(), wait::now() - start, &figures);
    drop(site);
    if arguments.json {
        print_json(&report)?;
    } else {
        summarize(&figures, start, &mut screen)?;
    }
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn greet(site: &Site, screen: &mut Screen) -> Result<()> {
    let title = screen.paint(Tone::Bold, "Fairway");
    screen.line(&format!(
        "\n {title}  the front door of a Kubernetes control plane, and the way to its Services"
    ))?;
    let remark = format!(
        "three masters 172.16.60.241-243, virtual address .250:8443, a worker with pods; API server: {}",
        site.control_plane.name()
    );
    screen.say(&screen.paint(Tone::Dim, remark))?;
    let legend = "each mark is 50 ms of dials:  █ all answered   ▄ some   × none   · nothing yet";
    screen.say(&screen.paint(Tone::Dim, legend))
}

fn summarize(figures: &[Figure], start: Instant, screen: &mut Screen) -> Result<()> {
    screen.line("")?;
    for line in chart::table(figures, screen.has_colours()) {
        screen.line(&format!(" {line}"))?;
    }
    let broken: Vec<_> =
        figures.iter().filter(|figure| !figure.is_kept()).map(|figure| figure.title).collect();
    let took = figure::shown(wait::now() - start);
    let text = if broken.is_empty() {
        let promised = figures.iter().filter(|figure| figure.promise.is_some()).count();
        format!("all {promised} promises were kept, in {took}")
    } else {
        format!("promises broken: {}", broken.join("; "))
    };
    screen.line("")?;
    screen.result(broken.is_empty(), &text)
}

#[expect(clippy::print_stdout, reason = "the document that was asked for")]
fn print_json(report: &Report) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(report).map_err(Error::json("the report"))?);
    Ok(())
}
