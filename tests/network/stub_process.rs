//! The stub apiserver as a process in a namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tests::certificates::Authority;
use tests::{Api, Error, Namespace, Process, Program, Result, objects};

const SOON: Duration = Duration::from_secs(10);
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

struct Server {
    process: Process,
    api: Api,
    _home: tempfile::TempDir,
}

fn server(arguments: &[&str]) -> Result<Server> {
    let node = Namespace::new("master")?;
    let home = tempfile::tempdir().map_err(Error::system("make", "a directory"))?;
    let authority = Authority::new("test")?;
    authority.server("stub", &["127.0.0.1"])?.write(home.path(), "stub")?;
    let file = |name: &str| home.path().join(name).display().to_string();
    let first = objects::node("first", "192.0.2.1").json().to_string();
    std::fs::write(file("objects"), first).map_err(Error::system("write", "objects"))?;
    let mut process = Program::ours("stub-apiserver")?
        .arguments([&ADDRESS.to_string(), "--certificate", &file("stub.crt"), "--key", &file("stub.key")])
        .arguments(["--objects", &file("objects")])
        .arguments(arguments.iter().copied())
        .inside(&node)
        .spawn()?;
    process.wait_for_log("listening", SOON)?;
    let api = Api::new(ADDRESS, authority.pem())?.inside(&node);
    Ok(Server { process, api, _home: home })
}

#[test]
fn processes_that_are_sent_the_same_writes_agree() -> Result<()> {
    let servers = [server(&[])?, server(&[])?];
    let lists = servers.each_ref().map(|Server { api, .. }| -> Result<Value> {
        api.apply(&objects::service("web", "10.254.0.10").json())?;
        api.apply(&objects::service("web", "10.254.0.11").json())?;
        api.delete(&objects::node("first", "").json())?;
        Ok(json!([api.get("/api/v1/services")?, api.get("/api/v1/nodes")?]))
    });
    let [one, other] = lists;
    assert_eq!(one?, other?);
    Ok(())
}

#[test]
fn a_process_is_told_its_faults_and_options() -> Result<()> {
    let mut server = server(&["--token", "secret", "--release", "old"])?;
    let status = |method: &str, path: &str, body: Option<&Value>| {
        server.api.request(method, path, body).map(|answer| answer.status)
    };
    assert_eq!(status("GET", "/api/v1/nodes/first", None)?, 401);
    assert_eq!(status("GET", "/readyz", None)?, 200);
    assert_eq!(status("POST", "/fairway-test/faults", Some(&json!({"unready": true})))?, 200);
    assert_eq!(status("GET", "/readyz", None)?, 500);
    assert_eq!(status("GET", "/livez", None)?, 200);
    let known = server.api.clone().with_token("secret");
    assert_eq!(known.get("/api/v1/nodes/first")?["status"]["addresses"][0]["address"], "192.0.2.1");
    assert_eq!(known.request("GET", "/apis/discovery.k8s.io/v1", None)?.status, 404);
    server.process.kill()?;
    assert!(server.api.request("GET", "/readyz", None).is_err());
    Ok(())
}
