//! Masters with apiservers and front doors on a link, and a client that dials them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tests::certificates::Authority;
use tests::topology::{Family, Host, INTERFACE, Link, VIRTUAL_LINK_LOCAL};
use tests::traffic::{self, DialReport};
use tests::{Api, Error, Namespace, Process, Program, Result, admin, wait};

/// Longer than anything here takes on the busiest machine: only a failure ever waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Where apiservers listen.
pub(crate) const APISERVER_PORT: u16 = 6443;
const ADMIN_PORT: u16 = 8405;

/// The link and what is needed to start programs on it. Hosts are named by their position on the link.
pub(crate) struct Site {
    pub(crate) link: Link,
    pub(crate) authority: Authority,
    family: Family,
    files: TempDir,
}

/// What one front door is told beyond what all have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) priority: u8,
    pub(crate) preempt: bool,
    /// From one advert to the next.
    pub(crate) advert_interval: &'static str,
    /// Further fields of the virtual router, in YAML.
    pub(crate) router: &'static str,
    pub(crate) balance: &'static str,
    /// From one health check to the next.
    pub(crate) interval: &'static str,
    /// Further fields of health checks, in YAML, with a comma behind each.
    pub(crate) check: &'static str,
    /// Beyond `caFile`, in YAML.
    pub(crate) tls: String,
    /// How many addresses the virtual router has before the one that clients use.
    pub(crate) further_addresses: u8,
}

impl Plan {
    pub(crate) fn new(priority: u8) -> Self {
        let (balance, interval, tls) = ("round-robin", "100ms", String::new());
        let (advert_interval, router, check) = ("200ms", "", "timeout: 1s,");
        Self {
            priority,
            preempt: false,
            advert_interval,
            router,
            balance,
            interval,
            check,
            tls,
            further_addresses: 0,
        }
    }
}

impl Site {
    pub(crate) fn new(masters: u8) -> Result<Self> {
        Self::of(Family::Ipv4, masters)
    }

    /// Whose virtual address is of `family`.
    pub(crate) fn of(family: Family, masters: u8) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("fw-").tempdir();
        let files = files.map_err(Error::system("make", "a directory"))?;
        let authority = Authority::new("site")?;
        let site = Self { link: Link::new(masters)?, authority, family, files };
        site.write("ca.crt", site.authority.pem())?;
        Ok(site)
    }

    /// This many masters, each with an apiserver and a front door; the first is the strongest and holds the virtual
    /// address. `plan` is given each one's priority.
    pub(crate) fn whole(masters: u8, plan: impl Fn(u8) -> Plan) -> Result<WholeSite> {
        Self::whole_of(Family::Ipv4, masters, plan)
    }

    /// The same with a virtual address of `family`.
    pub(crate) fn whole_of(family: Family, masters: u8, plan: impl Fn(u8) -> Plan) -> Result<WholeSite> {
        let site = Self::of(family, masters)?;
        let positions = 0..usize::from(masters);
        let apiservers = positions.clone().map(|master| site.apiserver(master)).collect::<Result<_>>()?;
        let mut front_doors = Vec::new();
        for master in positions {
            let priority = 250 - 50 * u8::try_from(master).unwrap_or_default();
            front_doors.push(site.front_door(master, &plan(priority))?);
            until("the first master holds the address", || Ok(site.holders()? == [0]))?;
        }
        Ok(WholeSite { front_doors, apiservers, site })
    }

    pub(crate) fn master(&self, position: usize) -> &Host {
        &self.link.masters()[position]
    }

    /// What clients connect to.
    pub(crate) const fn virtual_address(&self) -> IpAddr {
        self.family.virtual_address()
    }

    /// Which masters have it on an interface, reachable or not.
    pub(crate) fn holders(&self) -> Result<Vec<usize>> {
        self.link.holders_of(self.virtual_address())
    }

    pub(crate) fn client(&self) -> &Namespace {
        self.link.client().namespace()
    }

    /// A file of this name with this text.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).map_err(Error::system("write", path.display()))?;
        Ok(path.display().to_string())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.files.path()
    }

    /// Starts an apiserver with a certificate for its own address and the virtual one.
    pub(crate) fn apiserver(&self, master: usize) -> Result<Apiserver> {
        let (host, name) = (self.master(master), name(master));
        let names = [host.address().into(), self.virtual_address()].map(|address| address.to_string());
        let identity = self.authority.server(&name, &names.each_ref().map(String::as_str))?;
        identity.write(self.directory(), &name)?;
        self.apiserver_with(master, &[])
    }

    /// Starts an apiserver with the certificate that is in the file of its name.
    pub(crate) fn apiserver_with(&self, master: usize, arguments: &[&str]) -> Result<Apiserver> {
        let (host, name) = (self.master(master), name(master));
        let address = SocketAddr::from((host.address(), APISERVER_PORT));
        let (certificate, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let mut process = Program::ours("stub-apiserver")?
            .arguments([&address.to_string(), "--name", &name, "--certificate", &certificate, "--key", &key])
            .arguments(arguments)
            .inside(host.namespace())
            .spawn()?;
        process.wait_for_log("listening", LIMIT)?;
        let api = Api::new(address, self.authority.pem())?.inside(self.client());
        Ok(Apiserver { process, api })
    }

    /// Starts a front door and waits until it is open.
    pub(crate) fn front_door(&self, master: usize, plan: &Plan) -> Result<FrontDoor> {
        self.front_door_of(Program::ours("fairway-lb")?, master, plan)
    }

    /// The same of `program`, which runs a front door with the arguments it is given.
    pub(crate) fn front_door_of(&self, program: Program, master: usize, plan: &Plan) -> Result<FrontDoor> {
        let text = self.configuration(plan).replace("control-0.sock", &format!("control-{master}.sock"));
        let file = self.write(&format!("front-door-{master}.yaml"), &text)?;
        let namespace = self.master(master).namespace();
        let mut process = program.arguments(["--config", &file]).inside(namespace).spawn()?;
        process.wait_for_log("front door open", LIMIT)?;
        let family = match self.family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        Ok(FrontDoor {
            process,
            control: self.path(&format!("control-{master}.sock")),
            namespace: namespace.clone(),
            instance: format!("{INTERFACE}-51-{family}"),
        })
    }

    /// The file of a front door, that of the first master. Its health checks have no time to lose, and its adverts some:
    /// a busy machine must not look like a dead master.
    pub(crate) fn configuration(&self, plan: &Plan) -> String {
        let Plan { priority, preempt, advert_interval, router, .. } = plan;
        let Plan { balance, interval, check, tls, further_addresses, .. } = plan;
        let (first, prefix, length) = match self.family {
            Family::Ipv4 => (String::new(), "192.0.2.", 32),
            Family::Ipv6 => (format!("\"{VIRTUAL_LINK_LOCAL}/64\", "), "2001:db8::", 128),
        };
        let further = (1..=*further_addresses).map(|last| format!("\"{prefix}{last}/{length}\", "));
        let addresses =
            [first, further.collect(), format!("\"{}/{length}\"", self.virtual_address())].concat();
        let front_door = self.family.front_door();
        let backends = self.link.masters().iter().enumerate().map(|(position, host)| {
            format!("  - {{name: {}, address: \"{}:{APISERVER_PORT}\"}}\n", name(position), host.address())
        });
        let backends: String = backends.collect();
        format!(
            "apiVersion: fairway.dev/v1alpha1\n\
             kind: FrontDoor\n\
             virtualRouter: {{interface: {INTERFACE}, routerId: 51, priority: {priority}, \
             advertInterval: {advert_interval}, preempt: {preempt}, {router} addresses: [{addresses}]}}\n\
             frontend: {{listen: \"{front_door}\", balance: {balance}}}\n\
             healthCheck: {{interval: {interval}, {check} tls: {{caFile: \"{}\"{tls}}}}}\n\
             admin: {{socket: \"{}\"}}\n\
             backends:\n{backends}",
            self.path("ca.crt"),
            self.path("control-0.sock"),
        )
    }

    /// New TLS connections of the client to the virtual address, one request each.
    pub(crate) fn dial(&self, rate: u32, duration: Duration) -> Result<Program> {
        let (rate, milliseconds) = (rate.to_string(), duration.as_millis().to_string());
        let patience = "15000"; // milliseconds: an answer may be slow here, it must only come
        let arguments =
            ["--rate", &rate, "--milliseconds", &milliseconds, "--timeout-milliseconds", patience];
        Ok(traffic::dial(&self.family.front_door().to_string(), arguments)?
            .arguments(self.trust())
            .inside(self.client()))
    }

    /// Connections of the client to the virtual address that are kept open.
    pub(crate) fn hold(&self, connections: u32, duration: Duration) -> Result<Program> {
        let (connections, milliseconds) = (connections.to_string(), duration.as_millis().to_string());
        let arguments = ["--connections", &connections, "--milliseconds", &milliseconds];
        Ok(traffic::hold(&self.family.front_door().to_string(), arguments)?
            .arguments(self.trust())
            .inside(self.client()))
    }

    /// `count` connections, one after the other and quickly so.
    pub(crate) fn dial_times(&self, count: u32) -> Result<DialReport> {
        let rate = 50;
        traffic::report(self.dial(rate, Duration::from_secs(1) * count / rate)?, LIMIT)
    }

    fn trust(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--protocol", "tls", "--path", "/livez", "--authority"].map(str::to_owned).into();
        arguments.push(self.path("ca.crt"));
        for master in 0..self.link.masters().len() {
            let name = name(master);
            arguments
                .extend(["--backend".to_owned(), format!("{name}={}", self.path(&format!("{name}.crt")))]);
        }
        arguments
    }
}

/// A site in full service.
pub(crate) struct WholeSite {
    pub(crate) front_doors: Vec<FrontDoor>,
    pub(crate) apiservers: Vec<Apiserver>,
    pub(crate) site: Site,
}

impl WholeSite {
    /// The node loses its programs and its cable, in this order: its address stays, where nobody can take it off.
    pub(crate) fn kill_node(&mut self, master: usize) -> Result<()> {
        self.front_doors[master].process.kill()?;
        self.apiservers[master].process.kill()?;
        self.site.link.unplug(self.site.master(master))
    }
}

/// What front doors and reports call the apiserver of a master.
pub(crate) fn name(master: usize) -> String {
    format!("m{}", master + 1)
}

/// A stub apiserver. Dropping it kills it.
pub(crate) struct Apiserver {
    pub(crate) process: Process,
    api: Api,
}

impl Apiserver {
    /// Whether it says that it is ready; it serves in any case.
    pub(crate) fn set_ready(&self, ready: bool) -> Result<()> {
        let faults = serde_json::json!({"unready": !ready});
        let answer = self.api.request("POST", "/fairway-test/faults", Some(&faults))?;
        assert_eq!(answer.status, 200, "{answer:?}");
        Ok(())
    }
}

/// A running `fairway-lb`. Dropping it kills it.
pub(crate) struct FrontDoor {
    pub(crate) process: Process,
    /// The path of its control socket.
    pub(crate) control: String,
    namespace: Namespace,
    /// What its metrics call its virtual router.
    instance: String,
}

impl FrontDoor {
    /// What `fairway-lb` says when it is run with these words and its control socket: exit code and output.
    pub(crate) fn tell(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let program = Program::ours("fairway-lb")?.arguments(words.iter().copied());
        let (status, printed) = program.arguments(["--socket", &self.control]).run(LIMIT)?;
        Ok((status.code(), printed))
    }

    /// What its admin server answers: status line and all.
    pub(crate) fn ask(&self, path: &str) -> Result<String> {
        let ask = || admin::ask(ADMIN_PORT, path, LIMIT);
        self.namespace.run(ask)?.map_err(Error::system("ask a front door for", path))
    }

    /// The value of a series that holds whole numbers, labels included, without the common prefix: `backend_up{backend="m1"}`.
    /// Those of the virtual router, of which it has one, without the label that names it.
    pub(crate) fn metric(&self, series: &str) -> Result<u64> {
        let series =
            match series.strip_prefix("vrrp_").map(|rest| rest.split_once('{').unwrap_or((rest, "}"))) {
                None => series.to_owned(),
                Some((name, "}")) => format!("vrrp_{name}{{instance=\"{}\"}}", self.instance),
                Some((name, labels)) => format!("vrrp_{name}{{instance=\"{}\",{labels}", self.instance),
            };
        let answer = self.ask("/metrics")?;
        let value = admin::value(&answer, &format!("fairway_lb_{series}"));
        value.ok_or_else(|| Error::Object { reason: format!("there is no {series} in {answer}") })
    }

    /// Whether it sends new connections to the apiserver of `master`.
    pub(crate) fn uses(&self, master: usize) -> Result<bool> {
        Ok(self.metric(&format!("backend_up{{backend=\"{}\"}}", name(master)))? == 1)
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until_some(what, LIMIT, || Ok(condition()?.then_some(())))
}

/// Fails as soon as `condition` does not hold; returns after `span`.
pub(crate) fn throughout(
    span: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = wait::now() + span;
    while wait::now() < end {
        assert!(condition()?, "no longer: {what}");
        wait::pace(Duration::from_millis(10));
    }
    Ok(())
}
