//! The two ends of what is measured, the same for every benchmark of a path: how their namespaces are set, and the server.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tests::{Error, Namespace, Process, Program, Result};

/// Congestion control of every socket: what the host prefers would favour whoever paces best. This is the only one that
/// every kernel allows as the default of a namespace.
pub const CONGESTION_CONTROL: &str = "reno";
/// Many connections between the same two addresses must find ports.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/tcp_congestion_control", CONGESTION_CONTROL),
    ("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535"),
    ("/proc/sys/net/ipv4/tcp_tw_reuse", "1"),
];

/// Sets up `namespace` for many connections.
pub fn settle(namespace: &Namespace) -> Result<()> {
    namespace.run(|| {
        SETTINGS
            .iter()
            .try_for_each(|(file, value)| std::fs::write(file, value).map_err(Error::system("write", *file)))
    })?
}

/// Starts `traffic answer` in `network`, at `addresses` with ports, and waits until it listens, for as long as `patience`
/// lasts. In `folder` are its certificate and key, `server.crt` and `server.key`, and its log.
pub fn start_server(
    network: &Namespace,
    addresses: impl IntoIterator<Item = OsString>,
    folder: &Path,
    patience: Duration,
) -> Result<Process> {
    let path = |name: &str| folder.join(name).into_os_string();
    let mut server = Program::ours("traffic")?
        .arguments(["answer"])
        .arguments(addresses)
        .arguments(["--certificate".into(), path("server.crt"), "--key".into(), path("server.key")])
        .inside(network)
        .log_to(folder.join("server.log"))
        .spawn()?;
    server.wait_for_log("listening", patience)?;
    Ok(server)
}
