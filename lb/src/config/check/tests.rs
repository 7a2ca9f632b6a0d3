mod frontend;
mod health_check;
mod mistakes;
mod virtual_router;

use std::collections::BTreeMap;
use std::io;

use rustls::pki_types::ServerName;
use vrrp::Preempt;

use super::*;
use crate::config::Check;

const EXAMPLE: &str = include_str!("../../../tests/fixtures/fairway-lb.yaml");
/// How the example shows peers.
const PEERS: &str = "# peers: [172.16.60.241, 172.16.60.242, 172.16.60.243]";

/// A certificate authority, a certificate of a client, its key, and the key of somebody else; made once per test.
struct Files(BTreeMap<&'static str, Vec<u8>>);

impl Files {
    fn new() -> Self {
        let authority = rcgen::generate_simple_self_signed(["authority".to_owned()]).unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        Self(BTreeMap::from([
            ("/etc/kubernetes/pki/ca.crt", authority.cert.pem().into_bytes()),
            ("/client.crt", client.cert.pem().into_bytes()),
            ("/client.key", client.signing_key.serialize_pem().into_bytes()),
            ("/other.key", authority.signing_key.serialize_pem().into_bytes()),
            ("/nonsense", b"nonsense".to_vec()),
            ("/broken.crt", b"-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n".to_vec()),
        ]))
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        parse(text, &|path: &Path| {
            let contents = path.to_str().and_then(|path| self.0.get(path));
            contents.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

/// The example without the lines that say what would hold anyway.
fn shortest() -> String {
    EXAMPLE.lines().filter(|line| !line.ends_with("# default")).collect::<Vec<_>>().join("\n")
}

/// The example with one piece of it replaced.
fn with(find: &str, replacement: &str) -> String {
    assert_eq!(EXAMPLE.matches(find).count(), 1, "{find}");
    EXAMPLE.replacen(find, replacement, 1)
}

fn problems(text: &str) -> String {
    Files::new().parse(text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_example_shows_the_defaults() {
    let shortest = shortest().replace("admin:", "");
    let shown = Files::new().parse(EXAMPLE).unwrap();
    let implied = Files::new().parse(&shortest).unwrap();
    assert!(EXAMPLE.lines().count() > shortest.lines().count() + 10, "{shortest}");
    assert_eq!(shown.virtual_routers, implied.virtual_routers);
    assert_eq!(shown.frontend, implied.frontend);
    assert_eq!(shown.backends, implied.backends);
    assert_eq!(shown.health_check, implied.health_check);
    assert_eq!(shown.rebalance, implied.rebalance);
    assert_eq!(shown.admin, implied.admin);
    assert_eq!(shown.control_socket, implied.control_socket);
}

#[test]
fn the_readme_shows_a_configuration_that_is_accepted() {
    let readme = include_str!("../../../../README.md");
    let example = readme.split("```yaml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = Files::new().parse(example).unwrap();
    assert_eq!(config.backends.iter().count(), 3);
}

#[test]
fn the_example_is_read_as_written() {
    let config = Files::new().parse(EXAMPLE).unwrap();
    let router = &config.virtual_routers[0];
    assert_eq!((router.interface.as_str(), router.router_id.number()), ("eth0", 51));
    assert_eq!((router.priority.number(), router.preempt), (100, Preempt::Never));
    assert_eq!(router.version.interval(), Duration::from_millis(100));
    assert_eq!(router.addresses.networks(), ["172.16.60.250/32".parse().unwrap()]);
    assert_eq!(config.frontend.listen, ["172.16.60.250:8443".parse().unwrap()]);
    assert_eq!(config.frontend.connect_timeout, Duration::from_millis(250));
    let names: Vec<&str> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["m1", "m2", "m3"]);
    let Check::Https(http, tls) = &config.health_check.check else { panic!("{:?}", config.health_check) };
    assert_eq!((http.path.as_str(), http.live_path.as_str()), ("/readyz", "/livez"));
    let address = config.backends[0].address;
    assert_eq!(tls.server_name(address), ServerName::from(address.ip()));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text =
        "apiVersion: fairway.dev/v1alpha1\nkind: FrontDoor\nvirtualRouter: {routerId: 300}\nbackends: []\n";
    let expected = [
        "virtualRouter.interface: is required",
        "virtualRouter.routerId: must be from 1 to 255, found 300",
        "virtualRouter.addresses: is required",
        "frontend: is required",
        "backends: must list 1 to 64 backends, found 0",
        "healthCheck: is required",
    ];
    assert_eq!(problems(text).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_unreadable_file_is_a_problem() {
    let problems = read(Path::new("/does/not/exist.yaml")).map(|_| ()).unwrap_err().to_string();
    assert!(problems.starts_with("cannot read /does/not/exist.yaml: "), "{problems}");
}
