//! What is asked about a flow, as text and as the query of a URL.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use plan::{Port, Protocol, Source};

use super::place;

/// A flow that somebody asks about, as the query of a URL:
/// `sender=pod:10.1.0.9&destination=10.254.0.10:80/TCP&output=json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) sender: Sender,
    pub(crate) destination: Destination,
    pub(crate) json: bool,
}

/// Who sends: an address, and where it is if that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(super) source: Option<Source>,
    pub(super) address: IpAddr,
}

/// Where it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(super) address: IpAddr,
    pub(super) port: Port,
    pub(super) protocol: Protocol,
}

impl FromStr for Sender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let places = [("pod:", Source::Pod), ("node:", Source::Node), ("outside:", Source::Outside)];
        let place =
            places.into_iter().find_map(|(prefix, source)| Some((source, text.strip_prefix(prefix)?)));
        let (source, address) = place.map_or((None, text), |(source, address)| (Some(source), address));
        let address = address.parse::<IpAddr>();
        let address = address.map_err(|error| format!("sender: {text:?} is not an address: {error}"))?;
        Ok(Self { source, address: address.to_canonical() })
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(format!("destination: {protocol:?} is none of TCP, UDP and SCTP")),
        };
        let at = at.parse::<SocketAddr>();
        let at =
            at.map_err(|error| format!("destination: {text:?} is not ADDRESS:PORT[/PROTOCOL]: {error}"))?;
        let port = Port::new(at.port()).ok_or_else(|| format!("destination: {text:?} has port 0"))?;
        Ok(Self { address: at.ip().to_canonical(), port, protocol })
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(query: &str) -> Result<Self, String> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let required = |name: &str| value(name).ok_or_else(|| format!("{name}: is required"));
        Ok(Self {
            sender: required("sender")?.parse()?,
            destination: required("destination")?.replace("%5B", "[").replace("%5D", "]").parse()?,
            json: value("output") == Some("json"),
        })
    }
}

/// As a query again. Brackets have no place in one.
impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sender { source, address: sender } = self.sender;
        let Destination { address, port, protocol } = self.destination;
        let place = source.map_or(String::new(), |source| format!("{}:", place(source)));
        let at = SocketAddr::new(address, port.number()).to_string().replace('[', "%5B").replace(']', "%5D");
        let output = if self.json { "json" } else { "text" };
        write!(formatter, "sender={place}{sender}&destination={at}/{protocol}&output={output}")
    }
}
