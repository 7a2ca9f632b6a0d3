//! `healthzBindAddress` and `metricsBindAddress` in kube-proxy's spellings.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// kube-proxy's port for `/healthz` (`ProxyHealthzPort`).
pub const HEALTHZ_PORT: u16 = 10_256;
/// kube-proxy's port for `/metrics` (`ProxyStatusPort`).
pub const METRICS_PORT: u16 = 10_249;

/// Text that is no address to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address with or without a port, as in 127.0.0.1:{METRICS_PORT}")]
pub struct BindError;

/// Reads `0.0.0.0:10256`, `[::]:10256`, or an address alone, which gets the default port.
pub fn bind_address(text: &str, default_port: u16) -> Result<SocketAddr, BindError> {
    if let Ok(address) = SocketAddr::from_str(text) {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = IpAddr::from_str(bare).map_err(|_not_an_address| BindError)?;
    Ok(SocketAddr::new(address, default_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_spellings() {
        let cases = [
            ("0.0.0.0:10256", Some("0.0.0.0:10256")),
            ("127.0.0.1", Some("127.0.0.1:7")),
            ("[::]:80", Some("[::]:80")),
            ("::1", Some("[::1]:7")),
            ("[::1]", Some("[::1]:7")),
            ("", None),
            (":10256", None),
            ("localhost:80", None),
            ("127.0.0.1:99999", None),
            ("010.0.0.1", None),
        ];
        for (text, expected) in cases {
            let read = bind_address(text, 7).ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
