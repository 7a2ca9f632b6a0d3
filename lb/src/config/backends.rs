//! The list `backends`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use daemon::document::Section;

use super::field::{ADDRESS_AND_PORT, noted};
use super::{Backend, BackendName, defaults};

/// A front door serves one control plane. The bound keeps every choice and every metric small.
const MOST_BACKENDS: usize = 64;
/// `HAProxy`'s bound: enough to say one percent beside full weight.
const HEAVIEST: u16 = 256;
/// No process has descriptors for more.
const MOST_CONNECTIONS: u32 = 1_000_000;

/// The backends that are valid alone, each with its position in the document.
pub(super) fn backends(root: &mut Section<'_>) -> Vec<(Backend, usize)> {
    let list = root.sections("backends", backend);
    let Some(list) = root.require("backends", list) else { return Vec::new() };
    if !(1..=MOST_BACKENDS).contains(&list.len()) {
        root.problem("backends", format!("must list 1 to {MOST_BACKENDS} backends, found {}", list.len()));
    }
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    let mut valid = Vec::new();
    for (position, backend) in list.into_iter().enumerate() {
        let Some(backend) = backend else { continue };
        if let Some(first) = names.insert(backend.name.clone(), position) {
            let what = format!("{} is already the name of backends[{first}]", backend.name);
            root.problem(&format!("backends[{position}].name"), what);
        }
        if let Some(first) = addresses.insert(backend.address, position) {
            let what = format!("{} is already the address of backends[{first}]", backend.address);
            root.problem(&format!("backends[{position}].address"), what);
        }
        valid.push((backend, position));
    }
    if !valid.is_empty() && valid.iter().all(|(backend, _)| backend.weight == 0) {
        root.problem("backends", "all have weight 0: nobody would take connections");
    }
    valid
}

fn backend(section: &mut Section<'_>) -> Option<Backend> {
    let name = section.text("name");
    let name = section.require("name", name).and_then(|name| {
        let what = format!("must be 1 to 63 letters, digits, '-', '_' or '.', found {name:?}");
        noted(section, "name", BackendName::new(name), what)
    });
    let address: Option<SocketAddr> = section.parsed("address", ADDRESS_AND_PORT);
    let address = section.require("address", address).and_then(|address| {
        let reachable = address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
        let what = format!("must be an address and port that can be connected to, found {address}");
        noted(section, "address", reachable.then_some(address), what)
    });
    let weight = section.number("weight", 0..=HEAVIEST).unwrap_or(defaults::WEIGHT);
    let backup = section.flag("backup").unwrap_or(false);
    let max_connections = section.number("maxConnections", 1..=MOST_CONNECTIONS).and_then(NonZeroU32::new);
    let send_proxy = section.flag("sendProxy").unwrap_or(false);
    Some(Backend { name: name?, address: address?, weight, backup, max_connections, send_proxy })
}
