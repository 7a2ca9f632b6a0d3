//! What somebody else takes away from the proxy is back before anybody complains.

use std::fs;
use std::time::Duration;

use dataplane::{Dataplane, Ebpf, Settings};
use plan::{Change, Frontend, Port, Protocol};
use tests::{Error, Result, wait};

use super::life_cycle::{PODS, TARGET, manifests};
use super::node::{Node, until};

/// Promised to whoever flushes too much.
const SOON: Duration = Duration::from_secs(2);
const ALL: [&str; 3] = ["pod-1", "pod-2", "pod-3"];

#[test]
fn pins_that_are_removed_are_back_within_two_seconds() -> Result<()> {
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    let _proxy = node.proxy_of_files()?;
    let pinned = node.settings().bpf_fs.join("v4");
    fs::remove_dir_all(&pinned).map_err(Error::system("remove", pinned.display()))?;
    node.await_backends(TARGET, &ALL)?;
    wait::until("the pins are back", SOON, || {
        ["links/connect4", "maps/SERVICES"].iter().all(|pin| pinned.join(pin).exists())
    })?;
    until("it is counted", || {
        Ok(node.metric("fairway_proxy_dataplane_restored_total")?.is_some_and(|count| count >= 2.0))
    })
}

/// Who writes to the maps of the proxy behind its back.
pub(super) fn somebody_else(node: &Node) -> Result<Ebpf> {
    let pinned = node.settings().bpf_fs;
    let elsewhere = pinned.with_file_name("elsewhere");
    let maps = elsewhere.join("v4/maps");
    fs::create_dir_all(&maps).map_err(Error::system("make", maps.display()))?;
    for pin in ebpf_pins(&pinned.join("v4/maps"))? {
        let (own, theirs) = (pinned.join("v4/maps").join(&pin), maps.join(&pin));
        fs::hard_link(own, &theirs).map_err(Error::system("link", theirs.display()))?;
    }
    let Ok(somebody) = Ebpf::open(&Settings { bpf_fs: elsewhere, ..node.settings() }) else {
        panic!("the maps can be opened by anybody with privileges")
    };
    Ok(somebody)
}

/// A frontend over TCP.
pub(super) fn frontend(target: &str) -> Frontend {
    let address = target.parse::<std::net::SocketAddr>();
    let port = address.as_ref().ok().and_then(|address| Port::new(address.port()));
    let (Ok(address), Some(port)) = (address, port) else { panic!("{target} is no address and port") };
    Frontend::new(address.ip(), port, Protocol::Tcp)
}

#[test]
fn a_service_that_somebody_deletes_from_the_maps_is_served_again_within_two_seconds() -> Result<()> {
    let node = Node::with_pods()?;
    manifests(&node, &PODS)?;
    let _proxy = node.proxy_of_files()?;
    let mut somebody = somebody_else(&node)?;
    let frontend = frontend(TARGET);
    assert!(somebody.apply(&[Change::RemoveService { frontend }]).is_empty());
    wait::until_some("clients are served again", SOON, || {
        Ok((node.dial("tcp", TARGET, 3)?.failed == 0).then_some(()))
    })?;
    until("it is counted", || {
        Ok(node.metric("fairway_proxy_drift_repaired_total")?.is_some_and(|count| count >= 1.0))
    })
}

fn ebpf_pins(directory: &std::path::Path) -> Result<Vec<std::ffi::OsString>> {
    let listed = || Error::system("list", directory.display());
    let entries = fs::read_dir(directory).map_err(listed())?;
    entries.map(|entry| Ok(entry.map_err(listed())?.file_name())).collect()
}
