//! Requests and answers.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::faults::Faults;
use super::history::{History, Key, Page};
use super::request::{self, Query, Target};
use super::resource::Resource;
use super::status::{self, Refusal};
use super::store::Store;
use super::watch::{End, Stream, Watch};
use super::{Options, discovery, events};

/// The largest request body, as etcd's default.
const LARGEST_BODY: usize = 1_536 * 1024;
/// How many request lines are kept.
const REQUESTS_KEPT: usize = 10_000;
/// How long a watch lasts if the client does not say: `--min-request-timeout`.
const WATCH_LIFETIME: Duration = Duration::from_mins(30);

pub(super) type Answer = Response<Either<Full<Bytes>, Stream>>;

/// What all connections of a stub share.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) faults: Mutex<Faults>,
    pub(super) requests: Mutex<VecDeque<String>>,
    pub(super) ends: broadcast::Sender<End>,
    pub(super) resets: broadcast::Sender<()>,
}

impl Server {
    /// Answers one request. `verified`: the client has shown a certificate that we trust.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        verified: bool,
    ) -> Result<Answer, Infallible> {
        let (path, query) =
            (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let target = request::target(&path, self.options.release);
        if let Some(Target::Control(command)) = target {
            return Ok(self.control(&command, request).await);
        }
        self.remember(format!("{} {}", request.method(), request.uri()));
        let (delay, fault) = self.with_faults(|faults| {
            let fault = faults.refuse(&path, &request::unescape(&query));
            (Duration::from_millis(faults.delay_milliseconds), fault)
        });
        tokio::time::sleep(delay).await;
        let mut answer = match (fault, target) {
            (Some((code, retry_after_seconds)), _) => {
                let mut answer = refuse(&Refusal::Fault { code, retry_after_seconds });
                if let Some(seconds) = retry_after_seconds {
                    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                answer
            }
            (None, None) if path.starts_with("/api") => {
                refuse(&Refusal::NotFound("the server could not find the requested resource".to_owned()))
            }
            (None, None) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            (None, Some(target)) => {
                self.serve(target, &query, request, verified).await.unwrap_or_else(|r| refuse(&r))
            }
        };
        if let Ok(name) = HeaderValue::from_str(&self.options.name) {
            answer.headers_mut().insert("fairway-test-server", name);
        }
        Ok(answer)
    }

    /// Notes what was asked, or tried, for the test to look at.
    pub(super) fn remember(&self, line: String) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == REQUESTS_KEPT {
            requests.pop_front();
        }
        requests.push_back(line);
    }

    pub(super) fn with_faults<T>(&self, work: impl FnOnce(&mut Faults) -> T) -> T {
        work(&mut self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(
        &self,
        target: Target,
        query: &str,
        request: Request<Incoming>,
        verified: bool,
    ) -> Result<Answer, Refusal> {
        let release = self.options.release;
        match target {
            Target::Version => return Ok(json_answer(StatusCode::OK, &discovery::version(release))),
            Target::Live => return Ok(text(StatusCode::OK, "ok")),
            Target::Ready => return Ok(self.ready()),
            Target::LegacyVersions
            | Target::Groups
            | Target::Group
            | Target::Resources(_)
            | Target::Collection(..)
            | Target::Object(_)
            | Target::Control(_) => {}
        }
        if !verified && !self.knows(&request) {
            return Err(Refusal::Unauthorized);
        }
        let document = match target {
            Target::Collection(resource, namespace) => {
                return self.collection(resource, namespace, query, request).await;
            }
            Target::Object(key) => return self.object(&key, request).await,
            Target::LegacyVersions => discovery::legacy_versions(),
            Target::Groups => discovery::groups(release),
            Target::Group => discovery::group(),
            Target::Resources(root) => discovery::resources(root),
            Target::Version | Target::Live | Target::Ready | Target::Control(_) => {
                return Err(Refusal::Method);
            }
        };
        Ok(json_answer(StatusCode::OK, &document))
    }

    fn ready(&self) -> Answer {
        if self.with_faults(|faults| faults.unready) {
            let report = "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
            text(StatusCode::INTERNAL_SERVER_ERROR, report)
        } else {
            text(StatusCode::OK, "ok")
        }
    }

    fn knows(&self, request: &Request<Incoming>) -> bool {
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.and_then(|value| value.strip_prefix("Bearer "));
        let tokens = &self.options.tokens;
        tokens.is_empty() || token.is_some_and(|token| tokens.iter().any(|known| known == token))
    }

    async fn collection(
        &self,
        resource: Resource,
        namespace: Option<String>,
        text: &str,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        match *request.method() {
            Method::POST if resource == Resource::Events => {
                let event =
                    events::checked(body(request).await?, namespace.as_deref(), self.options.release)?;
                let key = events::key(&event);
                let event = self.store.with_events(|events| events.create(&key, event))?;
                Ok(json_answer(StatusCode::CREATED, &event))
            }
            Method::GET => {
                let query = request::query(text, resource, namespace, self.options.release)?;
                if query.watch { self.watch(query) } else { self.list(&query) }
            }
            Method::POST => {
                let object = body(request).await?;
                let name = object.pointer("/metadata/name").and_then(Value::as_str);
                let name =
                    name.ok_or_else(|| Refusal::Invalid("metadata.name is required".to_owned()))?.to_owned();
                let key = Key { resource, namespace: namespace.unwrap_or_default(), name };
                if resource.is_namespaced() && key.namespace.is_empty() {
                    return Err(Refusal::Method);
                }
                let object = self.store.write(|history| history.create(&key, object))?;
                Ok(json_answer(StatusCode::CREATED, &object))
            }
            _ => Err(Refusal::Method),
        }
    }

    async fn object(&self, key: &Key, request: Request<Incoming>) -> Result<Answer, Refusal> {
        match *request.method() {
            Method::PATCH if key.resource == Resource::Events => {
                let patch = body(request).await?;
                let event = self.store.with_events(|events| {
                    let patched = events::patched(&*events.get(key)?, &patch);
                    events.replace(key, events::checked(patched, Some(&key.namespace), self.options.release)?)
                })?;
                Ok(json_answer(StatusCode::OK, &event))
            }
            Method::GET => Ok(json_answer(StatusCode::OK, &*self.store.read(|history| history.get(key))?)),
            Method::PUT => {
                let object = body(request).await?;
                let object = self.store.write(|history| history.replace(key, object))?;
                Ok(json_answer(StatusCode::OK, &object))
            }
            Method::DELETE => {
                self.store.write(|history| history.delete(key))?;
                Ok(json_answer(StatusCode::OK, &status::success()))
            }
            _ => Err(Refusal::Method),
        }
    }

    /// `resourceVersion` as in the API concepts: unset and 0 are served from now (0 ignores `limit`, as the watch
    /// cache does); a number is at least that, or with `resourceVersionMatch=Exact` exactly that.
    fn list(&self, query: &Query) -> Result<Answer, Refusal> {
        let (at, after, limit) = match (&query.after, query.revision) {
            (Some((revision, key)), _) => (Some(*revision), Some(key), query.limit),
            (None, None) => (None, None, query.limit),
            (None, Some(0)) => (None, None, 0),
            (None, Some(revision)) if query.exact => (Some(revision), None, query.limit),
            (None, Some(revision)) => {
                let current = self.store.revision();
                if revision > current {
                    return Err(Refusal::TooLarge { asked: revision, current });
                }
                (None, None, query.limit)
            }
        };
        let page = self.store.read(|history| history.list(&query.selection, at, after, limit))?;
        list_answer(query.selection.resource, &page)
    }

    fn watch(&self, query: Query) -> Result<Answer, Refusal> {
        let revision = query.revision.filter(|revision| *revision != 0);
        let (gone_as_status, limit) = self.with_faults(|faults| {
            (faults.gone_as_status, faults.watch_lifetime_milliseconds.map(Duration::from_millis))
        });
        if let Some(revision) = revision.filter(|_| gone_as_status) {
            self.store.read(|history: &History| history.require(revision))?;
        }
        let asked = query.timeout_seconds.map_or(WATCH_LIFETIME, Duration::from_secs);
        let watch = Watch {
            store: self.store.clone(),
            selection: query.selection,
            revision,
            bookmark_every: query.bookmarks.then_some(self.options.bookmark_every),
            lifetime: limit.map_or(asked, |limit| limit.min(asked)),
        };
        let mut answer = Response::new(Either::Right(watch.start(self.ends.subscribe())));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }

    /// `/fairway-test/…`: what the library offers as methods, for a stub in another process.
    async fn control(&self, command: &str, request: Request<Incoming>) -> Answer {
        if request.method() == Method::GET && command == "requests" {
            let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            return json_answer(StatusCode::OK, &json!(*requests));
        }
        if request.method() != Method::POST {
            return refuse(&Refusal::Method);
        }
        match body(request).await.and_then(|body| self.obey(command, body)) {
            Ok(()) => json_answer(StatusCode::OK, &status::success()),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn obey(&self, command: &str, body: Value) -> Result<(), Refusal> {
        let invalid = |error: &dyn std::error::Error| Refusal::Invalid(error.to_string());
        match command {
            "faults" => {
                let faults = serde_json::from_value(body).map_err(|error| invalid(&error))?;
                self.with_faults(|current| *current = faults);
            }
            "put" => drop(self.store.put(body).map_err(|error| invalid(&error))?),
            "delete" => drop(self.store.delete(&body).map_err(|error| invalid(&error))?),
            "compact" => self.store.compact(),
            "close-watches" => self.end_watches(End::Close),
            "cut-watches" => self.end_watches(End::Cut),
            "reset-connections" => self.reset_connections(),
            _ => return Err(Refusal::NotFound(format!("no such command: {command}"))),
        }
        Ok(())
    }

    /// Without watches nothing is ended: that there is no receiver is no error.
    pub(super) fn end_watches(&self, end: End) {
        drop(self.ends.send(end));
    }

    /// Without connections nothing is reset.
    pub(super) fn reset_connections(&self) {
        drop(self.resets.send(()));
    }
}

async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let bad = |error: &dyn std::fmt::Display| Refusal::BadRequest(error.to_string());
    let bytes =
        Limited::new(request.into_body(), LARGEST_BODY).collect().await.map_err(|error| bad(&error))?;
    let bytes = bytes.to_bytes();
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|error| bad(&error))
}

/// A list. Its items go without `apiVersion` and `kind`, as the apiserver's do.
fn list_answer(resource: Resource, page: &Page) -> Result<Answer, Refusal> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some((key, remaining)) = &page.rest {
        metadata["continue"] = request::token(page.revision, key).into();
        if let Some(remaining) = remaining {
            metadata["remainingItemCount"] = (*remaining).into();
        }
    }
    let list = List {
        kind: format!("{}List", resource.kind()),
        api_version: resource.api_version(),
        metadata,
        items: page.objects.iter().map(|object| bare(object)).collect(),
    };
    let text = serde_json::to_string(&list).map_err(|error| Refusal::Invalid(error.to_string()))?;
    Ok(respond(StatusCode::OK, "application/json", text))
}

fn bare(object: &Value) -> BTreeMap<&String, &Value> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !["apiVersion", "kind"].contains(&name.as_str())).collect()
}

/// Not a [`Value`]: that would take a copy of each object, and the server's time is part of what a client is timed at.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'page> {
    kind: String,
    api_version: &'static str,
    metadata: Value,
    items: Vec<BTreeMap<&'page String, &'page Value>>,
}

fn refuse(refusal: &Refusal) -> Answer {
    let code = StatusCode::from_u16(refusal.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(code, &refusal.status())
}

fn json_answer(code: StatusCode, document: &Value) -> Answer {
    respond(code, "application/json", document.to_string())
}

fn text(code: StatusCode, body: &str) -> Answer {
    respond(code, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(code: StatusCode, media_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
