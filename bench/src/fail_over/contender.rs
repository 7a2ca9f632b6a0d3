//! Who holds the virtual address and balances: ours, and the usual pair.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;
use tests::topology::{FRONT_DOOR, Host, INTERFACE, Link, VIRTUAL_ADDRESS};

use super::site::{APISERVER_PORT, NAMES};

/// Advert interval of both, in milliseconds.
pub const ADVERT_INTERVAL: u32 = 100;
/// The same where it is as short as can be.
pub const SHORTEST_ADVERT_INTERVAL: u32 = 10;

/// One way to run a front door on three masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// fairway-lb, one process.
    Fairway,
    /// keepalived for the address and HAProxy for the connections.
    Pair,
}

impl Contender {
    /// Both, in the order in which they take their turns.
    pub const ALL: [Self; 2] = [Self::Fairway, Self::Pair];

    /// Whether ours is compared with it.
    pub const fn is_rival(self) -> bool {
        matches!(self, Self::Pair)
    }

    /// Its name in progress and report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fairway => "fairway-lb",
            Self::Pair => "keepalived + HAProxy",
        }
    }
}

/// 250, 240, 230: the first master wants the address most.
const fn priority(master: usize) -> usize {
    250 - 10 * master
}

pub(super) fn fairway(link: &Link, master: usize, advert_interval: u32, authority: &Path) -> String {
    let backend = |(name, host): (&&str, &Host)| {
        format!("  - {{name: {name}, address: \"{}:{APISERVER_PORT}\"}}\n", host.address())
    };
    let backends: String = NAMES.iter().zip(link.masters()).map(backend).collect();
    let (priority, authority) = (priority(master), authority.display());
    format!(
        "apiVersion: fairway.dev/v1alpha1
kind: FrontDoor
virtualRouter:
  interface: {INTERFACE}
  routerId: 51
  priority: {priority}
  advertInterval: {advert_interval}ms
  addresses: [{VIRTUAL_ADDRESS}/32]
frontend: {{listen: \"{FRONT_DOOR}\"}}
backends:
{backends}healthCheck: {{tls: {{caFile: \"{authority}\"}}}}
"
    )
}

/// Version 3 with sub-second adverts; HAProxy is watched by a script, as its documentation has it.
pub(super) fn keepalived(master: usize, advert_interval: u32, haproxy_pid: &Path) -> String {
    let priority = priority(master);
    let interval = f64::from(advert_interval) / 1e3;
    let pid = haproxy_pid.display();
    format!(
        "global_defs {{
  vrrp_version 3
  script_user root
  enable_script_security
}}
vrrp_script haproxy {{
  script \"/bin/sh -c 'kill -0 $(cat {pid})'\"
  interval 1
  fall 2
  rise 2
}}
vrrp_instance apiserver {{
  state BACKUP
  interface {INTERFACE}
  virtual_router_id 51
  priority {priority}
  advert_int {interval}
  virtual_ipaddress {{
    {VIRTUAL_ADDRESS}/32
  }}
  track_script {{
    haproxy
  }}
}}
"
    )
}

/// Checks of `/readyz` every second, which is what is usual; sessions of a server that is down are ended.
pub(super) fn haproxy(addresses: &[Ipv4Addr], authority: &Path, socket: &Path) -> String {
    let server =
        |(name, address): (&&str, &Ipv4Addr)| format!("  server {name} {address}:{APISERVER_PORT}\n");
    let servers: String = NAMES.iter().zip(addresses).map(server).collect();
    let (port, authority, socket) = (FRONT_DOOR.port(), authority.display(), socket.display());
    format!(
        "global
  stats socket {socket} mode 600 level admin expose-fd listeners
defaults
  mode tcp
  option redispatch
  retries 3
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 2s
frontend apiserver
  bind :{port}
  default_backend apiservers
backend apiservers
  balance roundrobin
  option httpchk GET /readyz
  default-server check check-ssl verify required ca-file {authority} inter 1s fall 2 rise 2 on-marked-down shutdown-sessions
{servers}"
    )
}
