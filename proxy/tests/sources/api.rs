//! An API server that answers by the test's script: HTTP/1.1, one request per connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What is answered to a request.
pub(crate) enum Answer {
    /// A whole body.
    Body(u16, Value),
    /// Lines that are sent as they come; the answer ends with the sender.
    Lines(mpsc::Receiver<Value>),
}

type Script = dyn FnMut(&str) -> Answer + Send;

/// Answers until dropped, its connections with it.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Api {
    /// `script` is given the path and query of each request but those for Nodes: there are none.
    pub(crate) async fn start(
        address: SocketAddr,
        mut script: impl FnMut(&str) -> Answer + Send + 'static,
    ) -> Self {
        let without_nodes = move |target: &str| match target.starts_with("/api/v1/nodes?") {
            true if target.contains("watch=true") => silence(),
            true => list(&[], ""),
            false => script(target),
        };
        Self::start_with_nodes(address, without_nodes).await
    }

    /// `script` is given the path and query of each request.
    pub(crate) async fn start_with_nodes(
        address: SocketAddr,
        script: impl FnMut(&str) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, Arc::clone(&script)));
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    // It takes no Events and has no ServiceCIDRs.
    let is_known = head.starts_with("GET ") && target != "/apis/networking.k8s.io/v1";
    let answer = if is_known { (script.lock().unwrap())(target) } else { status(404) };
    // A client that went away has had enough.
    drop(write(&mut stream, answer).await);
}

async fn write(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Body(status, body) => {
            let body = body.to_string();
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
            stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await
        }
        Answer::Lines(mut lines) => {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            while let Some(line) = lines.recv().await {
                let line = format!("{line}\n");
                stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await
        }
    }
}

/// The resources of `discovery.k8s.io/v1`, as a server says that it has them.
pub(crate) fn discovery() -> Answer {
    let slices = json!({ "name": "endpointslices", "kind": "EndpointSlice", "singularName": "", "namespaced": true, "verbs": ["list", "watch"] });
    Answer::Body(
        200,
        json!({ "kind": "APIResourceList", "groupVersion": "discovery.k8s.io/v1", "resources": [slices] }),
    )
}

/// A refusal.
pub(crate) fn status(code: u16) -> Answer {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "as scripted", "reason": "Scripted", "code": code });
    Answer::Body(code, body)
}

/// A watch that stays open and silent.
pub(crate) fn silence() -> Answer {
    let (sender, lines) = mpsc::channel(1);
    tokio::spawn(async move { sender.closed().await });
    Answer::Lines(lines)
}

/// A list, or one page of it where `next` is said.
pub(crate) fn list(items: &[Value], next: &str) -> Answer {
    let metadata = json!({ "resourceVersion": "100", "continue": next });
    Answer::Body(200, json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items }))
}

/// A Service at 10.0.0.`last`:80.
pub(crate) fn service(name: &str, last: u8) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop", "resourceVersion": "7" });
    json!({ "metadata": metadata, "spec": { "clusterIP": format!("10.0.0.{last}"), "ports": [{ "port": 80 }] } })
}

/// Endpoints at 10.1.0.x:8080.
pub(crate) fn slice(service: &str, endpoints: &[u8]) -> Value {
    let endpoint = |last: &u8| json!({ "addresses": [format!("10.1.0.{last}")] });
    let labels = json!({ "kubernetes.io/service-name": service });
    let metadata = json!({ "name": format!("{service}-1"), "namespace": "shop", "resourceVersion": "7", "labels": labels });
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({ "metadata": metadata, "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }], "endpoints": endpoints })
}

/// A line of a watch.
pub(crate) fn event(kind: &str, object: &Value) -> Value {
    json!({ "type": kind, "object": object })
}
