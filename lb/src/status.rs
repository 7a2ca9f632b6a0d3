//! What `fairway-lb status` tells: as JSON, whose field names are stable, and as a table.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How a front door is at one moment. Spans of time are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Of the running program, which may be another one than that asked with.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// For how long it has run.
    pub running_seconds: f64,
    /// What it was told.
    pub configuration: Configuration,
    /// Where clients knock.
    pub frontend: Frontend,
    /// Its virtual routers, in the order of their names.
    pub virtual_routers: Vec<VirtualRouter>,
    /// The configured backends in their order, and after them those taken out that still have connections.
    pub backends: Vec<Backend>,
}

/// What the front door was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Its file.
    pub file: String,
    /// For how long it has been in force.
    pub in_force_seconds: f64,
    /// The last attempt to reload it; `null` if there was none.
    pub last_reload: Option<LastReload>,
}

/// An attempt to reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastReload {
    /// How long ago.
    pub seconds_ago: f64,
    /// `applied`, `refused` or `partial`.
    pub result: String,
    /// The steps that were taken, or why not.
    pub details: Vec<String>,
}

/// Where clients knock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// The addresses that are configured.
    pub listen: Vec<SocketAddr>,
    /// Whether clients are accepted on all of them.
    pub accepting: bool,
    /// Connections carried now.
    pub connections: usize,
}

/// One virtual router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouter {
    /// What logs and metrics call it: `eth0-51-ipv4`.
    pub instance: String,
    /// `initialize`, `backup` or `master`.
    pub role: String,
    /// For how long.
    pub role_seconds: f64,
    /// Why it became that.
    pub reason: String,
    /// The priority that its adverts carry.
    pub priority: u8,
    /// Where its adverts come from; `null` without a link.
    pub local: Option<IpAddr>,
    /// The addresses that its master holds.
    pub addresses: Vec<String>,
    /// The routers that were heard.
    pub peers: Vec<Peer>,
}

/// Another virtual router on the link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Where its adverts come from.
    pub address: IpAddr,
    /// The priority of its last advert; 0 for a farewell.
    pub priority: u8,
    /// How long ago that was.
    pub seconds_ago: f64,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// What logs and metrics call it.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// `up`, or why it takes no new connections: `unknown`, `unready`, `down`, `dead`.
    pub state: String,
    /// For how long.
    pub state_seconds: f64,
    /// Why it became that.
    pub reason: String,
    /// Its last check; `null` before the first has ended.
    pub last_check: Option<LastCheck>,
    /// Connections that it has now, those being established included.
    pub connections: usize,
    /// Connections that it has had.
    pub connections_total: u64,
    /// Whether an operator keeps new connections from it.
    pub drained: bool,
    /// Whether it was taken out of the configuration.
    pub removed: bool,
}

/// What a health check came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCheck {
    /// In words.
    pub result: String,
    /// How long ago.
    pub seconds_ago: f64,
}

/// For people.
impl fmt::Display for Status {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, process, configuration, frontend, .. } = self;
        let running = span(self.running_seconds);
        writeln!(text, "fairway-lb {version}, process {process}, running for {running}")?;
        let in_force = span(configuration.in_force_seconds);
        writeln!(text, "configuration: {}, in force for {in_force}", configuration.file)?;
        if let Some(LastReload { seconds_ago, result, details }) = &configuration.last_reload {
            writeln!(text, "last reload: {result} {} ago", span(*seconds_ago))?;
            for detail in details {
                writeln!(text, "  {detail}")?;
            }
        }
        let listen = frontend.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let accepting = if frontend.accepting { "accepting" } else { "NOT accepting" };
        writeln!(text, "frontend: {listen}, {accepting}, {} connections\n", frontend.connections)?;
        if !self.virtual_routers.is_empty() {
            writeln!(text, "{}", columns(&self.router_rows()))?;
        }
        text.write_str(&columns(&self.backend_rows()))
    }
}

impl Status {
    fn router_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row(["VIRTUAL ROUTER", "ROLE", "FOR", "PRIORITY", "ADDRESSES", "REASON"])];
        for router in &self.virtual_routers {
            rows.push(row([
                &router.instance,
                &router.role,
                &span(router.role_seconds),
                &router.priority.to_string(),
                &router.addresses.join(", "),
                &router.reason,
            ]));
            for Peer { address, priority, seconds_ago } in &router.peers {
                let heard = format!("heard {} ago", span(*seconds_ago));
                let what = if *priority == 0 { "left" } else { "peer" };
                rows.push(row([&format!("  {address}"), what, "", &priority.to_string(), "", &heard]));
            }
        }
        rows
    }

    fn backend_rows(&self) -> Vec<Vec<String>> {
        let header = ["BACKEND", "ADDRESS", "STATE", "FOR", "CONNECTIONS", "TOTAL", "LAST CHECK", "REASON"];
        let mut rows = vec![row(header)];
        for backend in &self.backends {
            let mut state = backend.state.clone();
            for (holds, word) in [(backend.drained, ", drained by operator"), (backend.removed, ", removed")]
            {
                state.push_str(if holds { word } else { "" });
            }
            let check = |check: &LastCheck| format!("{} ago", span(check.seconds_ago));
            rows.push(row([
                &backend.name,
                &backend.address.to_string(),
                &state,
                &span(backend.state_seconds),
                &backend.connections.to_string(),
                &backend.connections_total.to_string(),
                &backend.last_check.as_ref().map_or_else(|| "none yet".to_owned(), check),
                &backend.reason,
            ]));
        }
        rows
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Each column as wide as its widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A span of time with a precision that suits it: `0.25s`, `42s`, `3m10s`, `5h2m`, `3d4h`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "spans are neither negative nor huge"
)]
fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.2}s"),
        10..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{}m", whole / 3_600, whole % 3_600 / 60),
        86_400.. => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            process: 4711,
            running_seconds: 190.0,
            configuration: Configuration {
                file: "/etc/fairway/fairway-lb.yaml".to_owned(),
                in_force_seconds: 61.0,
                last_reload: Some(LastReload {
                    seconds_ago: 5.5,
                    result: "refused".to_owned(),
                    details: vec!["frontend: is required".to_owned()],
                }),
            },
            frontend: Frontend {
                listen: vec!["172.16.60.250:8443".parse().unwrap()],
                accepting: true,
                connections: 7,
            },
            virtual_routers: vec![VirtualRouter {
                instance: "eth0-51-ipv4".to_owned(),
                role: "master".to_owned(),
                role_seconds: 18_300.0,
                reason: "no advert from a master in time".to_owned(),
                priority: 250,
                local: Some("172.16.60.241".parse().unwrap()),
                addresses: vec!["172.16.60.250/32".to_owned()],
                peers: vec![Peer {
                    address: "172.16.60.242".parse().unwrap(),
                    priority: 240,
                    seconds_ago: 273_600.0,
                }],
            }],
            backends: vec![Backend {
                name: "m1".to_owned(),
                address: "172.16.60.241:6443".parse().unwrap(),
                state: "up".to_owned(),
                state_seconds: 42.0,
                reason: "answered 200".to_owned(),
                last_check: Some(LastCheck { result: "answered 200".to_owned(), seconds_ago: 0.25 }),
                connections: 7,
                connections_total: 123,
                drained: true,
                removed: false,
            }],
        }
    }

    #[test]
    fn the_table_says_all_that_matters_in_columns() {
        let expected = "\
fairway-lb 0.1.0, process 4711, running for 3m10s
configuration: /etc/fairway/fairway-lb.yaml, in force for 1m1s
last reload: refused 5.50s ago
  frontend: is required
frontend: 172.16.60.250:8443, accepting, 7 connections

VIRTUAL ROUTER   ROLE    FOR   PRIORITY  ADDRESSES         REASON
eth0-51-ipv4     master  5h5m  250       172.16.60.250/32  no advert from a master in time
  172.16.60.242  peer          240                         heard 3d4h ago

BACKEND  ADDRESS             STATE                    FOR  CONNECTIONS  TOTAL  LAST CHECK  REASON
m1       172.16.60.241:6443  up, drained by operator  42s  7            123    0.25s ago   answered 200
";
        assert_eq!(status().to_string(), expected);
    }

    #[test]
    fn json_has_the_published_names() {
        let json = serde_json::to_value(status()).unwrap();
        for (path, expected) in [
            ("/version", "\"0.1.0\""),
            ("/runningSeconds", "190.0"),
            ("/configuration/inForceSeconds", "61.0"),
            ("/configuration/lastReload/result", "\"refused\""),
            ("/frontend/accepting", "true"),
            ("/virtualRouters/0/role", "\"master\""),
            ("/virtualRouters/0/peers/0/address", "\"172.16.60.242\""),
            ("/backends/0/state", "\"up\""),
            ("/backends/0/lastCheck/secondsAgo", "0.25"),
            ("/backends/0/connectionsTotal", "123"),
            ("/backends/0/drained", "true"),
        ] {
            assert_eq!(json.pointer(path).map(ToString::to_string).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
    }
}
