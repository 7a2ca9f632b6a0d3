//! Clients: processes of their own inside the namespaces, watched while they dial.

use std::net::SocketAddr;
use std::time::Duration;

use super::chart;
use super::network::{KUBERNETES, NOBODY, WEB};
use super::screen::Screen;
use super::site::Site;
use crate::outage::Dial;
use crate::topology::FRONT_DOOR;
use crate::traffic::{self, Dialing, HoldReport};
use crate::{Error, Process, Program, Result, wait};

/// How much longer than planned a client may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// A dial that takes longer has failed. Below one second, after which the kernel sends a lost SYN again: a client that
/// waits for that has not been served.
const DIAL_LIMIT: &str = "900";
/// What is asked of an API server: answered by one that drains, too, and to anybody.
const PATH: &str = "/version";

/// The time by the clock of [`Dial::start`].
pub(crate) fn now() -> Duration {
    Duration::from_nanos_u128(wait::unix_nanoseconds())
}

/// Who is dialed, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The API server through the virtual address, from outside the cluster: a TLS connection and a request.
    FrontDoor,
    /// The API server through the Service `kubernetes`, from the worker: a TLS connection and a request.
    Kubernetes,
    /// The pods through their Service, from another pod of the worker.
    Web,
    /// The same by UDP: a socket and a datagram.
    WebByUdp,
    /// A Service without endpoints, from that pod.
    Nobody,
}

impl Way {
    const fn target(self) -> SocketAddr {
        match self {
            Self::FrontDoor => FRONT_DOOR,
            Self::Kubernetes => KUBERNETES,
            Self::Web | Self::WebByUdp => WEB,
            Self::Nobody => NOBODY,
        }
    }

    /// Puts a client in its place: its namespace, and where the proxy serves it, the worker's control group.
    fn place(self, client: Program, site: &Site) -> Program {
        let (network, cgroup) = (&site.network, &site.worker.cgroup);
        match self {
            Self::FrontDoor => client.inside(network.link.client().namespace()),
            Self::Kubernetes => client.inside(&network.worker).in_cgroup(cgroup),
            Self::Web | Self::WebByUdp | Self::Nobody => client.inside(&network.client_pod).in_cgroup(cgroup),
        }
    }

    fn arguments(self, site: &Site) -> Vec<String> {
        match self {
            Self::FrontDoor | Self::Kubernetes => tls_arguments(site),
            Self::WebByUdp => ["--protocol", "udp"].map(str::to_owned).to_vec(),
            Self::Web | Self::Nobody => Vec::new(),
        }
    }
}

fn tls_arguments(site: &Site) -> Vec<String> {
    let mut arguments = ["--protocol", "tls", "--path", PATH, "--authority"].map(str::to_owned).to_vec();
    arguments.push(site.control_plane.authority_file().display().to_string());
    for (name, certificate) in site.control_plane.certificates() {
        arguments.extend(["--backend".to_owned(), format!("{name}={}", certificate.display())]);
    }
    arguments
}

/// Dials in progress, drawn.
#[derive(Debug)]
pub(crate) struct Load {
    dialing: Dialing,
    limit: Duration,
}

impl Load {
    /// Starts a client that dials `rate` times a second for so long, whatever becomes of its dials.
    pub(crate) fn start(site: &Site, way: Way, rate: u32, milliseconds: u32) -> Result<Self> {
        let client = traffic::dial(&way.target().to_string(), way.arguments(site))?
            .arguments(["--rate", &rate.to_string(), "--milliseconds", &milliseconds.to_string()])
            .arguments(["--timeout-milliseconds", DIAL_LIMIT]);
        let dialing = Dialing::start(way.place(client, site), &site.log(&format!("dial-{way:?}")))?;
        Ok(Self { dialing, limit: Duration::from_millis(milliseconds.into()) + PATIENCE })
    }

    /// The dials that have ended, in the order of their ends.
    pub(crate) fn dials(&mut self) -> Result<&[Dial]> {
        self.dialing.dials()
    }

    /// Draws the dials until there are `enough` of them. The client ending first is an error.
    pub(crate) fn until(&mut self, screen: &mut Screen, enough: impl Fn(&[Dial]) -> bool) -> Result<()> {
        let limit = self.limit;
        wait::until_some("the client has dialed enough", limit, || {
            let ended = self.dialing.ended()?;
            let dials = self.draw(screen)?;
            match (enough(dials), ended) {
                (true, _) => Ok(Some(())),
                (false, None) => Ok(None),
                (false, Some(status)) => {
                    Err(Error::Ended { program: "a client".to_owned(), status: status.to_string() })
                }
            }
        })
    }

    /// Draws the dials to the end and returns all of them.
    pub(crate) fn finish(mut self, screen: &mut Screen) -> Result<Vec<Dial>> {
        wait::until_some("the client has ended", self.limit, || {
            let ended = self.dialing.ended()?;
            self.draw(screen)?;
            Ok(ended)
        })?;
        self.dialing.finish(self.limit)
    }

    fn draw(&mut self, screen: &mut Screen) -> Result<&[Dial]> {
        let dials = self.dialing.dials()?;
        screen.live(&chart::timeline(dials, screen.has_colours()))?;
        Ok(dials)
    }
}

/// Connections that are kept open, with a request on each every 100 ms.
#[derive(Debug)]
pub(crate) struct Held(Process);

impl Held {
    /// Opens them through the front door; returns when all are open.
    pub(crate) fn open(site: &Site, connections: u32, milliseconds: u32) -> Result<Self> {
        let way = Way::FrontDoor;
        let client = traffic::hold(&way.target().to_string(), way.arguments(site))?
            .arguments(["--connections", &connections.to_string()])
            .arguments(["--milliseconds", &milliseconds.to_string()])
            .log_to(site.log("hold"));
        let mut process = way.place(client, site).spawn()?;
        process.wait_for_log("holding", PATIENCE)?;
        Ok(Self(process))
    }

    /// How they fared, once their time is over.
    pub(crate) fn finish(self) -> Result<HoldReport> {
        traffic::finish(self.0, PATIENCE)
    }
}
