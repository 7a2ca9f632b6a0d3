//! A packet program run on a frame that nobody sent (`BPF_PROG_TEST_RUN`), for tables of packets.

use std::borrow::Cow;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, loaded_programs};

use super::timing::context;
use crate::Error;
use crate::ebpf::{Ebpf, load};

/// What a packet program made of a frame. Nothing was sent, but what the program remembers, it does remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What the program returned: a verdict of the kernel's traffic control, such as 2 for a packet that is dropped.
    pub verdict: i32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Ebpf {
    /// Runs `program` on `frame`, Ethernet header and all, as if it had come in by the interface with this index. To be called
    /// in the network namespace that the interface is in; packets must be served ([`Ebpf::serve_packets`]).
    pub fn try_packet(&self, program: &'static str, interface: u32, frame: &[u8]) -> Result<Trial, Error> {
        let failed = |error| load::program_error("try", program, error);
        let wanted = self.programs().iter().find(|known| known.name == program).map(|known| known.id);
        // Those of others come and go.
        let mut loaded = loaded_programs().filter_map(Result::ok);
        let information = loaded
            .find(|information| Some(information.id()) == wanted)
            .ok_or_else(|| failed(aya::programs::ProgramError::NotLoaded))?;
        let classifier = SchedClassifier::from_program_info(information, Cow::Borrowed(program));
        let mut left = vec![0; frame.len() + ROOM];
        let run = classifier.map_err(failed)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ctx_in: Some(&context(interface)),
            ..TestRunOptions::default()
        });
        let run = run.map_err(failed)?;
        left.truncate(run.data_size_out as usize);
        Ok(Trial { verdict: run.return_value.cast_signed(), frame: left })
    }
}

/// A frame may grow by so much: an error about it has headers before it.
const ROOM: usize = 128;
