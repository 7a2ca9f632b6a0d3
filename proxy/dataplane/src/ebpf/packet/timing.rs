//! How long the packet programs take for a packet, as the kernel's own test runs have it.

use std::collections::BTreeSet;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::{PacketSettings, attach};
use crate::Error;
use crate::ebpf::load;
use crate::ebpf::pins::Pins;
use crate::kernel::Feature;

/// The packet programs once more in the kernel, on the maps of a dataplane that is open, and at no interface.
/// They are those that send packets straight to the neighbour.
#[derive(Debug)]
pub struct PacketTiming(Ebpf);

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRun {
    /// What the kernel is told to do with the packet, in the numbers of tc.
    pub verdict: i32,
    /// How long a run took; the average of all.
    pub duration: Duration,
}

impl PacketTiming {
    /// A program that lets everything pass: what the kernel takes to run any.
    pub const PASS: &'static str = "fairway_pass";
    /// One that only looks up the conversation of an IPv4 packet and its service, and lets pass what is of one.
    pub const LOOK_UP: &'static str = "fairway_look_up";

    pub(in crate::ebpf) fn open(pins: &Pins, lacking: &BTreeSet<Feature>) -> Result<Self, Error> {
        let mut object = super::open(pins, &PacketSettings::default(), lacking)?;
        attach::load(&mut object)?;
        for name in [Self::PASS, Self::LOOK_UP] {
            program(&mut object, name)?.load().map_err(|error| load::program_error("load", name, error))?;
        }
        Ok(Self(object))
    }

    /// Runs `program` so often in a row on one packet, which is not made anew in between, as if it had come in by the
    /// interface with this index in the network namespace of the calling thread.
    pub fn run(
        &mut self,
        name: &'static str,
        frame: &[u8],
        interface: u32,
        repeat: u32,
    ) -> Result<PacketRun, Error> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context(interface)),
            repeat,
            ..TestRunOptions::default()
        };
        let run = program(&mut self.0, name)?
            .test_run(options)
            .map_err(|error| load::program_error("run", name, error))?;
        Ok(PacketRun { verdict: run.return_value.cast_signed(), duration: run.duration })
    }
}

fn program<'object>(
    object: &'object mut Ebpf,
    name: &'static str,
) -> Result<&'object mut SchedClassifier, Error> {
    attach::program(object, name)
}

/// What a test run is told of a packet: a `__sk_buff` up to `ifindex`, its eleventh word, of which only that is set.
pub(super) fn context(interface: u32) -> [u8; 44] {
    const INTERFACE: usize = 10 * size_of::<u32>();
    let mut context = [0; 44];
    context[INTERFACE..].copy_from_slice(&interface.to_ne_bytes());
    context
}
