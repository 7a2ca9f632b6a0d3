//! A host that has the virtual address without being a router.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tests::capture::{Capture, Content, Frame};
use tests::topology::{Host, INTERFACE, VIRTUAL_ADDRESS};
use tests::{Error, Result, wait};

use super::A_WHILE;
use super::contents::{announces, mac};
use crate::site::{LIMIT, Plan, Site, throughout, until};

/// Long before the master would announce itself for its own reasons.
const SOON: Duration = Duration::from_secs(3);

/// Makes `rival` ask for another host in the name of the virtual address: whoever hears that takes it for the owner.
fn claim(rival: &Host, of: &Host) -> Result<()> {
    rival.namespace().ip(&["neighbour", "flush", "dev", INTERFACE])?;
    let ask = || {
        let socket = UdpSocket::bind((VIRTUAL_ADDRESS, 0))?;
        socket.send_to(b"?", SocketAddr::from((of.address(), 9))).map(drop)
    };
    rival.namespace().run(ask)?.map_err(Error::system("send from", VIRTUAL_ADDRESS))
}

#[test]
fn a_second_owner_is_noticed_and_contradicted() -> Result<()> {
    let site = Site::new(2)?;
    let master = site.front_door(0, &Plan::new(250))?;
    until("the first holds the address", || Ok(site.link.holders()? == [0]))?;
    let backup = site.front_door(1, &Plan::new(240))?;
    throughout(A_WHILE, "all is announced", || Ok(site.link.holders()? == [0]))?;
    assert_eq!(master.metric("vrrp_address_conflicts_total")?, 0);

    let (rival, ours) =
        (site.link.host("rival", "172.16.60.99".parse().expect("an address"))?, mac(site.master(0))?);
    rival.namespace().ip(&["address", "add", &format!("{VIRTUAL_ADDRESS}/32"), "dev", INTERFACE])?;
    let rivals = mac(&rival)?;
    let capture = Capture::on_interface(site.client(), INTERFACE)?;
    claim(&rival, site.link.client())?;
    let is_claim = |frame: &Frame| matches!(frame.content, Content::Arp { sender, sender_mac, .. } if (sender, sender_mac) == (VIRTUAL_ADDRESS, rivals));
    let claimed = capture.wait_for("the rival's claim", LIMIT, is_claim)?;
    let contradicted = capture
        .wait_for("the master's answer", LIMIT, |frame| frame.at >= claimed.at && announces(ours, frame))?;
    assert!(contradicted.at - claimed.at < SOON, "only after {:?}", contradicted.at - claimed.at);
    until("it is counted", || Ok(master.metric("vrrp_address_conflicts_total")? > 0))?;

    // Again and again, faster than it is answered.
    let (before, begun) = (capture.frames().len(), wait::now());
    for _ in 0..20 {
        claim(&rival, site.link.client())?;
    }
    let counted = master.metric("vrrp_address_conflicts_total")?;
    assert!(counted > 10, "only {counted}");
    let answers = capture.frames().iter().skip(before).filter(|frame| announces(ours, frame)).count();
    // Each is a request and a reply, at most one pair a second, and one by the way.
    let most = 2 * (begun.elapsed().as_secs() + 2);
    assert!(answers as u64 <= most, "{answers} answers, not {most}");
    let log = master.process.log()?;
    assert_eq!(log.matches("virtual address claimed by another host").count(), 1, "{log}");
    assert_eq!(backup.metric("vrrp_address_conflicts_total")?, 0, "it is not the backup's address");
    assert_eq!(site.link.holders()?, [0]);
    Ok(())
}
