//! What kube-proxy leaves of its modes nftables and ipvs.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use nix::errno::Errno;
use plan::{Frontend, Rules};

use super::addresses::Interface;
use super::message::{self, Command, Target};
use super::netlink::{Netlink, Request};
use super::{
    Ipvs, IpvsSettings, Surroundings, TABLE, Table, find_family, lost, no_table, refused, remove_table,
};
use crate::Error;

/// The API server gives node ports of these, unless it is told otherwise (`--service-node-port-range`).
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

impl Ipvs {
    /// Removes kube-proxy's nftables table, and, where its interface is, the virtual services of node ports at the node's
    /// own addresses, and, unless our own table shows that they are ours by now, the interface with those there. Success
    /// where there is nothing. What is forwarded by eBPF, and what our table names, is not touched.
    pub fn cleanup_of_kube_proxy() -> Result<(), Error> {
        remove_table("kube-proxy")?;
        if !Self::is_present() {
            return Ok(());
        }
        let ours = if Self::is_left()? { Some(named_by_us()?) } else { None };
        end_node_ports(ours.as_ref().unwrap_or(&BTreeMap::new()))?;
        if ours.is_none() {
            Self::open(IpvsSettings::default(), Surroundings::default())?.remove()?;
        }
        Ok(())
    }
}

fn named_by_us() -> Result<BTreeMap<Frontend, Rules>, Error> {
    let mut table = Table::open(TABLE, Surroundings::default()).map_err(no_table)?;
    Ok(table.read().map_err(lost("read the table of"))?.services())
}

/// kube-proxy has them at every address of the node, where no interface tells whose they are.
fn end_node_ports(ours: &BTreeMap<Frontend, Rules>) -> Result<(), Error> {
    let mut interface = Interface::open().map_err(lost("find the interface of"))?;
    let of_node = interface.observe().map_err(lost("read the addresses of"))?.others;
    let is_left = |frontend: &Frontend| {
        of_node.contains(&frontend.address())
            && NODE_PORTS.contains(&frontend.port().number())
            && !ours.contains_key(frontend)
    };
    let mut netlink = Netlink::generic().map_err(lost("open"))?;
    let kind = find_family(&mut netlink)?;
    let request = |payload| Request::new(kind, payload);
    let found = netlink.dump(&request(message::get_services())).map_err(lost("read"))?;
    let found = found.map_err(|refusal| refused("read", None, refusal))?;
    let targets = found.iter().filter_map(|payload| Some(message::found_service(payload)?.target));
    let left = targets.filter(|target| match target {
        Target::Address(frontend) => is_left(frontend),
        Target::Mark { .. } => false,
    });
    let ends: Vec<Request> =
        left.map(|target| request(message::about(Command::DeleteService, target))).collect();
    for answer in netlink.exchange(&ends).map_err(lost("remove"))? {
        match answer {
            Ok(_) | Err(Errno::ESRCH) => {}
            Err(refusal) => return Err(refused("remove", None, refusal)),
        }
    }
    Ok(())
}
