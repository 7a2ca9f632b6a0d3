//! Why an API object is not believed, and the readings that find out.

use std::net::IpAddr;

use ipnet::IpNet;
use plan::{Port, Protocol};

/// What is wrong with an API object. The object is left out whole, and the version before it stays in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not an address in the only spelling everybody reads alike: `010.0.0.1` is octal to some.
    #[error("{field}: {text:?} is not an IP address")]
    Address {
        /// Where.
        field: &'static str,
        /// What was found.
        text: String,
    },
    /// An address that no connection can be made to.
    #[error("{field}: {address} names no host")]
    NoHost {
        /// Where.
        field: &'static str,
        /// What was found.
        address: IpAddr,
    },
    /// An address of another family than declared.
    #[error("{field}: {address} is not of the family in {}", family_field(.field))]
    Family {
        /// Where.
        field: &'static str,
        /// What was found.
        address: IpAddr,
    },
    /// Not a network in CIDR notation.
    #[error("{field}: {text:?} is not a network")]
    Network {
        /// Where.
        field: &'static str,
        /// What was found.
        text: String,
    },
    /// A duration that the API does not allow.
    #[error("{field}: {seconds} is not between 1 and {most}")]
    Seconds {
        /// Where.
        field: &'static str,
        /// What was found.
        seconds: i32,
        /// The longest that is allowed.
        most: i32,
    },
    /// A number outside of 1 to 65535.
    #[error("{field}: {number} is not a port")]
    Port {
        /// Where.
        field: &'static str,
        /// What was found.
        number: i32,
    },
    /// Neither TCP nor UDP nor SCTP.
    #[error("{field}: {text:?} is not a known protocol")]
    Protocol {
        /// Where.
        field: &'static str,
        /// What was found.
        text: String,
    },
    /// Two ports of a Service that clients could not tell apart.
    #[error("spec.ports: {protocol} port {port} is there twice")]
    Twice {
        /// The port.
        port: Port,
        /// Its protocol.
        protocol: Protocol,
    },
    /// A slice for another kind of address than there is.
    #[error("addressType: {text:?} is not a known address type")]
    AddressType {
        /// What was found.
        text: String,
    },
    /// An endpoint without an address.
    #[error("endpoints[].addresses: is empty")]
    NoAddress,
    /// An object without a name.
    #[error("metadata.name: is missing")]
    NoName,
    /// The object does not have the shape of its kind.
    #[error("not a valid {kind}: {reason}")]
    Shape {
        /// The kind it claims to be.
        kind: &'static str,
        /// What the decoder says.
        reason: String,
    },
}

fn family_field(field: &str) -> &'static str {
    if field.starts_with("spec.") { "ipFamilies" } else { "addressType" }
}

/// Reads an address that connections can be made to.
pub(super) fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Refusal::Address { field, text: text.to_owned() });
    };
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(Refusal::NoHost { field, address });
    }
    Ok(address)
}

/// Reads a network.
pub(super) fn network(field: &'static str, text: &str) -> Result<IpNet, Refusal> {
    let Ok(network) = text.trim().parse::<IpNet>() else {
        return Err(Refusal::Network { field, text: text.to_owned() });
    };
    Ok(network.trunc())
}

/// Reads a port number.
pub(super) fn port(field: &'static str, number: i32) -> Result<Port, Refusal> {
    let port = u16::try_from(number).ok().and_then(Port::new);
    port.ok_or(Refusal::Port { field, number })
}

/// Reads a protocol; the API's default is TCP.
pub(super) fn protocol(field: &'static str, text: Option<&str>) -> Result<Protocol, Refusal> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(text) => Err(Refusal::Protocol { field, text: text.to_owned() }),
    }
}
