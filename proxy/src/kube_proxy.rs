//! What kube-proxy leaves in the kernel when it goes, and how that is cleared away beside a proxy that serves already.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use daemon::exit::Failure;
use dataplane::Ipvs;

use crate::kernel;

/// Chains of kube-proxy's modes iptables and ipvs. The kubelet's own, such as KUBE-FIREWALL, stay, and so does
/// KUBE-MARK-MASQ, which others use.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-XLB",
];
/// What the names of those begin with of which there is one per Service or endpoint.
const CHAINS_BY_NAME: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// Whether a chain of iptables is kube-proxy's.
pub(crate) fn is_chain(name: &str) -> bool {
    CHAINS.contains(&name) || CHAINS_BY_NAME.iter().any(|beginning| name.starts_with(beginning))
}

/// The chain that a line of iptables-save declares.
pub(crate) fn declared_chain(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split(' ').next()
}

/// Clears all of it away: the nftables table, virtual services of node ports, `kube-ipvs0` with its own unless they are this
/// proxy's by now, chains by the programs that know both of iptables' ways to keep them, and the sets of addresses that
/// those in mode ipvs ask. May be repeated.
pub(crate) fn clear_away() -> Result<(), Failure> {
    Ipvs::cleanup_of_kube_proxy().map_err(kernel)?;
    let mut looked_everywhere = true;
    for family in ["iptables", "ip6tables"] {
        let mut looked = false;
        for flavour in ["-nft", "-legacy", ""] {
            looked |= clear_chains(&format!("{family}{flavour}")).map_err(Failure::failed)?;
        }
        looked_everywhere &= looked;
        if !looked {
            tracing::warn!("{family} is not installed: if kube-proxy had rules there, they are there still");
        }
    }
    // Rules that are there still need theirs.
    if looked_everywhere {
        clear_sets().map_err(Failure::failed)?;
    }
    tracing::info!("nothing that is known of kube-proxy is left in the kernel");
    Ok(())
}

/// Why chains are still there.
#[derive(Debug, thiserror::Error)]
enum ClearError {
    #[error("run {program}")]
    Run { program: String, source: io::Error },
    #[error("{program}: {said}")]
    Failed { program: String, said: String },
}

/// False where the program is not installed.
fn clear_chains(program: &str) -> Result<bool, ClearError> {
    let (save, restore) = (format!("{program}-save"), format!("{program}-restore"));
    let saved = match Command::new(&save).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        output => succeeded(save, output)?,
    };
    let Some(script) = clearing(&saved) else { return Ok(true) };
    let fed = || {
        let mut child = Command::new(&restore)
            .arg("--noflush")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes())?;
        }
        child.wait_with_output()
    };
    let fed = fed();
    succeeded(restore, fed)?;
    tracing::info!(program, "chains of kube-proxy removed");
    Ok(true)
}

/// Of mode ipvs, which alone of its modes has some.
fn clear_sets() -> Result<(), ClearError> {
    const PROGRAM: &str = "ipset";
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).output();
    let listed = match run(&["list", "-n"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(
                "ipset is not installed: if kube-proxy had sets of addresses, they are there still"
            );
            return Ok(());
        }
        output => succeeded(PROGRAM.to_owned(), output)?,
    };
    for name in listed.lines().filter(|name| name.starts_with("KUBE-")) {
        succeeded(format!("{PROGRAM} destroy {name}"), run(&["destroy", name]))?;
    }
    Ok(())
}

fn succeeded(program: String, output: io::Result<std::process::Output>) -> Result<String, ClearError> {
    match output {
        Err(source) => Err(ClearError::Run { program, source }),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(ClearError::Failed { program, said })
        }
    }
}

/// What is to be fed to `iptables-restore --noflush`, where `saved` is what `iptables-save` says: one transaction for each
/// table. `None` where there is nothing to clear.
fn clearing(saved: &str) -> Option<String> {
    let mut script: Vec<String> = Vec::new();
    for table in saved.split('*').skip(1) {
        let mut lines = table.lines();
        let name = lines.next().unwrap_or_default();
        let (mut emptied, mut jumps, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines {
            if let Some(chain) = declared_chain(line) {
                if is_chain(chain) {
                    // To declare a chain is to empty it.
                    emptied.push(format!(":{chain} - [0:0]"));
                    removed.push(format!("-X {chain}"));
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '))
                && !is_chain(chain)
                && leads_to_kube_proxy(rule)
            {
                jumps.push(format!("-D {chain} {rule}"));
            }
        }
        if !(jumps.is_empty() && removed.is_empty()) {
            script.push(format!("*{name}"));
            script.extend([emptied, jumps, removed].concat());
            script.push("COMMIT".to_owned());
        }
    }
    (!script.is_empty()).then(|| script.join("\n") + "\n")
}

fn leads_to_kube_proxy(rule: &str) -> bool {
    let mut words = rule.split(' ');
    let follows_jump = words.any(|word| word == "-j" || word == "-g");
    follows_jump && words.next().is_some_and(is_chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kube_proxys_goes() {
        let saved = "# Generated by iptables-save\n*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n\
            -A INPUT -j KUBE-FIREWALL\nCOMMIT\n*nat\n:PREROUTING ACCEPT [1:60]\n:DOCKER - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
            :KUBE-SERVICES - [0:0]\n:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]\n\
            -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
            -A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU\n\
            -A KUBE-SVC-TCOU7JCQXEZGVUNU ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ\nCOMMIT\n";
        let expected = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]\n\
            -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -X KUBE-SERVICES\n-X KUBE-SVC-TCOU7JCQXEZGVUNU\nCOMMIT\n";
        assert_eq!(clearing(saved).as_deref(), Some(expected));
        assert_eq!(clearing(""), None);
    }
}
