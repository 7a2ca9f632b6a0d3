//! What is wrong with Services on this node, as far as a program can tell: the running proxy's own account beside what
//! the machine shows. Changes nothing.

mod facts;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use dataplane::Feature;
use serde::Serialize;

pub(crate) use self::facts::{Facts, gather};

/// What the doctor has to say, the worst first.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    severity: Severity,
    /// What was looked at.
    subject: &'static str,
    /// What was found.
    found: String,
    /// What to do about it; empty where that is nothing.
    #[serde(skip_serializing_if = "str::is_empty")]
    advice: &'static str,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Clients are not served as the cluster wants.
    Failure,
    /// They may not be, or not as they were.
    Warning,
    /// It is as it should be.
    Fine,
    /// It could not be looked at.
    Unknown,
}

impl Report {
    /// Whether clients are served as the cluster wants, for all that is known.
    pub(crate) fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Failure)
    }
}

/// Judges what was found.
pub(crate) fn diagnose(facts: &Facts) -> Report {
    let mut findings = Vec::new();
    findings.extend(proxy(facts));
    findings.extend(features(facts));
    findings.extend(kernel(facts));
    findings.push(overlaps(facts));
    findings.extend(leftovers(facts));
    findings.sort_by_key(|finding| finding.severity);
    Report { findings }
}

fn finding(
    severity: Severity,
    subject: &'static str,
    found: impl Into<String>,
    advice: &'static str,
) -> Finding {
    Finding { severity, subject, found: found.into(), advice }
}

/// Metrics that tell of trouble where they are not 0: how bad it is, of what, the words for it, and what to do.
const COUNTED: [(&str, Severity, &str, &str, &str); 5] = [
    (
        "fairway_proxy_frontends_left_out",
        Severity::Failure,
        "left out",
        "frontends cannot be served",
        "the log and Events of the Services say why",
    ),
    (
        "fairway_proxy_held_back",
        Severity::Failure,
        "emptiness",
        "objects stay in force that the API server lists no more",
        "restore the cluster's data, or send SIGUSR1 where it is really gone",
    ),
    (
        "fairway_proxy_drift_repaired_total",
        Severity::Warning,
        "foreign writers",
        "times the kernel forwarded otherwise than it was told to",
        "find out who else writes: another proxy of services, a clean-up script",
    ),
    (
        "fairway_proxy_dataplane_restored_total",
        Severity::Warning,
        "foreign writers",
        "programs, pins or networks were removed or changed by somebody else, and put back",
        "find out who removes what is below the bpf file system",
    ),
    (
        "fairway_proxy_udp_socket_failures_total",
        Severity::Warning,
        "UDP sockets",
        "namespaces could not be searched for UDP sockets whose endpoint was gone",
        "give it the host's /proc (hostPID) and CAP_SYS_ADMIN",
    ),
];

/// What the proxy says of itself.
fn proxy(facts: &Facts) -> Vec<Finding> {
    let Some(running) = &facts.running else {
        let found = facts.unreachable.clone();
        let advice = "start it; services that are in the kernel go on as they were";
        return vec![finding(Severity::Failure, "proxy", found, advice)];
    };
    let mut findings = vec![finding(Severity::Fine, "proxy", "it answers", "")];
    let differing: Vec<&str> = running
        .frontends
        .iter()
        .filter(|frontend| !frontend.in_force)
        .map(|frontend| frontend.name.as_str())
        .collect();
    findings.push(match differing.as_slice() {
        [] => {
            let count = running.frontends.len();
            finding(Severity::Fine, "plan", format!("all {count} frontends are forwarded as planned"), "")
        }
        [first, ..] => finding(
            Severity::Failure,
            "plan",
            format!("{} frontends are not forwarded as planned, {first} first", differing.len()),
            "fairway-proxy explain tells of one; the log says what could not be written",
        ),
    });
    findings.extend(COUNTED.iter().filter_map(|(metric, severity, subject, what, advice)| {
        let count = running.total(metric);
        (count > 0.0).then(|| finding(*severity, subject, format!("{count} {what}"), advice))
    }));
    let away = running.away();
    findings.push(if away.is_empty() {
        finding(Severity::Fine, "API server", "every watch is connected", "")
    } else {
        let found = format!("it does not answer for {}", away.join(", "));
        finding(
            Severity::Warning,
            "API server",
            found,
            "forwarding goes on as it was; see the log for the reason",
        )
    });
    findings
}

/// What mode ebpf does without.
fn features(facts: &Facts) -> Vec<Finding> {
    const SUBJECT: &str = "features";
    if facts.running.as_ref().is_some_and(|running| running.mode != "ebpf") {
        return Vec::new();
    }
    match &facts.lacking {
        None => {
            vec![finding(Severity::Unknown, SUBJECT, "the kernel did not say what it has", "run it as root")]
        }
        Some(lacking) if lacking.is_empty() => {
            vec![finding(Severity::Fine, SUBJECT, "the kernel has all that mode ebpf makes use of", "")]
        }
        Some(lacking) => {
            let found =
                |feature: &Feature| format!("the kernel lacks {}: {}", feature.name(), feature.instead());
            let advice = "a newer kernel has it";
            lacking.iter().map(|it| finding(Severity::Warning, SUBJECT, found(it), advice)).collect()
        }
    }
}

/// What the node's kernel is set to.
fn kernel(facts: &Facts) -> Vec<Finding> {
    use Severity::{Failure, Fine, Unknown, Warning};
    let served: BTreeSet<bool> = facts.service_addresses().iter().map(IpAddr::is_ipv4).collect();
    let mut findings = Vec::new();
    for (is_ipv4, path) in [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")] {
        let subject = "forwarding";
        match facts.sysctls.get(path).map(String::as_str) {
            _ if !served.contains(&is_ipv4) => {}
            Some("1") => findings.push(finding(Fine, subject, format!("{path} is 1"), "")),
            Some(value) => findings.push(finding(
                Failure,
                subject,
                format!("{path} is {value}: pods elsewhere are not reached through this node"),
                "set it to 1",
            )),
            None => findings.push(finding(Unknown, subject, format!("{path} could not be read"), "")),
        }
    }
    let strict: Vec<&str> = facts.strict_interfaces().collect();
    findings.push(match strict.as_slice() {
        [] => finding(Fine, "rp_filter", "no interface drops packets for the way they come", ""),
        _ => finding(
            Warning,
            "rp_filter",
            format!("strict at {}: answers that come another way are dropped", strict.join(", ")),
            "set rp_filter to 2 (loose) or 0 where ways in and out differ",
        ),
    });
    findings
}

/// Addresses of Services that the node has itself.
fn overlaps(facts: &Facts) -> Finding {
    let services = facts.service_addresses();
    let both: Vec<String> = services.intersection(&facts.own_addresses).map(IpAddr::to_string).collect();
    if both.is_empty() {
        return finding(Severity::Fine, "addresses", "no service has an address of this node", "");
    }
    finding(
        Severity::Warning,
        "addresses",
        format!(
            "{} of services are addresses of this node: ports that no service has reach the node",
            both.join(", ")
        ),
        "take them off the interface, unless a balancer such as keepalived is to announce them",
    )
}

/// What kube-proxy left behind.
fn leftovers(facts: &Facts) -> Vec<Finding> {
    let advice = "run fairway-proxy cleanup --kube-proxy: packets meet its rules first";
    let mut findings: Vec<Finding> = facts
        .leftovers
        .iter()
        .map(|what| finding(Severity::Failure, "kube-proxy", format!("{what} is still there"), advice))
        .collect();
    let unseen = facts.unseen.iter().map(|what| {
        finding(
            Severity::Unknown,
            "kube-proxy",
            format!("{what} is not installed: its rules were not looked at"),
            "",
        )
    });
    findings.extend(unseen);
    if findings.is_empty() {
        findings.push(finding(Severity::Fine, "kube-proxy", "nothing of it is left", ""));
    }
    findings
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { severity, subject, found, advice } in &self.findings {
            let severity = match severity {
                Severity::Failure => "FAILURE",
                Severity::Warning => "warning",
                Severity::Fine => "fine",
                Severity::Unknown => "unknown",
            };
            writeln!(formatter, "{severity:8} {subject}: {found}")?;
            if !advice.is_empty() {
                writeln!(formatter, "         {advice}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
