//! Another kernel for a benchmark: what this machine's lacks, a guest's may have.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Error, Result};

use crate::document::Section;

/// The kernel of the guest.
const KERNEL: &str = "6.12";

/// Runs this program in a guest, whose network and memory are its own; `progress` is given each line of what it says.
/// Returns what it measured, which it prints as one line of JSON.
pub fn measure<'words>(
    arguments: impl IntoIterator<Item = &'words str>,
    mut progress: impl FnMut(&str),
) -> Result<Section> {
    let program = std::env::current_exe().map_err(Error::system("find", "this program"))?;
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guest/run");
    let mut guest = Command::new(&run)
        .arg(KERNEL)
        .arg(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::system("start", run.display()))?;
    let mut section = None;
    for line in guest.stdout.take().into_iter().flat_map(|output| BufReader::new(output).lines()) {
        let line = line.map_err(Error::system("read", "what the guest says"))?;
        if line.starts_with('{') {
            section = Some(serde_json::from_str(&line).map_err(Error::json("what the guest measured"))?);
        } else {
            progress(line.trim());
        }
    }
    let status = guest.wait().map_err(Error::system("wait for", "the guest"))?;
    section.filter(|_| status.success()).ok_or_else(|| {
        Error::system("measure in", "a guest")(std::io::Error::other(format!("it ended with {status}")))
    })
}
