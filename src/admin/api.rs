//! The resources of the API.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Query as UrlQuery, Request, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    page::{Listing, Query},
    problem::{self, Problem},
    text::text,
    token::Token,
    view::{
        AorView, BindingView, CallPage, CallView, Page, ReadyView, ReloadedView, RemovedView,
        ScriptsView, SnapshotView, StatusView,
    },
};
use crate::{
    backend::engine::{EngineAnswer, EngineQuestion},
    control::{Node, NotSaved, ReloadError},
    hex::parse_hex,
    metrics::{self, Sample},
    registrar::AorRecord,
    sip::uri::{canonical_host_into, unescape_into},
    subscribers::split_name,
    time::Clock,
    worker::Rules,
};

/// Octets of a request's body. No request needs one.
const MAX_BODY: usize = 4096;

/// The time for a client to send a body.
const BODY_TIME: Duration = Duration::from_secs(5);

/// Lists and look-ups at once: they take a CPU each, and workers need them more.
const LISTS: usize = 2;

/// Threads for what takes longer than a moment: lists, a reload and a snapshot at once.
pub(super) const BLOCKING_THREADS: usize = LISTS + 2;

/// What needs no token: nothing of it names anybody, and monitoring is simpler without secrets.
const OPEN: [&str; 4] = ["/", "/healthz", "/readyz", "/metrics"];

const BINDINGS: &str = "/api/v1/bindings/";
const CACHE: &str = "/api/v1/cache/";

/// What all requests share.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    token: Token,
    lists: Arc<Semaphore>,
    /// Held by the one reload, or the one snapshot, that runs: the others wait without a thread.
    reload: Arc<Mutex<()>>,
    snapshot: Arc<Mutex<()>>,
}

type Api = State<Arc<Shared>>;

/// Every path that is served.
fn routes() -> [(&'static str, MethodRouter<Arc<Shared>>); 17] {
    [
        ("/", get(index)),
        ("/healthz", get(async || "ok\n")),
        ("/readyz", get(readyz)),
        ("/metrics", get(metrics)),
        ("/api/v1/openapi.json", get(openapi)),
        ("/api/v1/webhooks.openapi.json", get(webhooks)),
        ("/api/v1/status", get(status)),
        ("/api/v1/bindings", get(list)),
        ("/api/v1/bindings/{aor}", get(show).delete(remove)),
        ("/api/v1/bindings/{aor}/{id}", axum::routing::delete(remove_one)),
        ("/api/v1/calls", get(calls)),
        ("/api/v1/cache", axum::routing::delete(forget_all)),
        ("/api/v1/cache/{username}", axum::routing::delete(forget)),
        ("/api/v1/reload", post(reload)),
        ("/api/v1/snapshot", post(snapshot)),
        ("/api/v1/scripts/status", get(scripts_status)),
        ("/api/v1/scripts/command", post(scripts_command)),
    ]
}

/// The API of a node.
pub(super) fn router(node: Arc<Node>, token: Token) -> Router {
    let shared = Arc::new(Shared {
        node,
        token,
        lists: Arc::new(Semaphore::new(LISTS)),
        reload: Arc::default(),
        snapshot: Arc::default(),
    });
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    // The last is the outermost: who has no token can't make us read a body.
    router
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(middleware::from_fn(bound_body))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), authorize))
        .layer(middleware::map_response(problem::in_every_error))
        .with_state(shared)
}

/// Lets nobody pass without the token, but to [`OPEN`] paths.
async fn authorize(State(shared): Api, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) || shared.token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let detail = "this needs the header `Authorization: Bearer` with the token of admin.token";
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    let bearer = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    response
}

/// Reads a request's body before anything is done for it, and refuses a long or a slow one.
async fn bound_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => {
            let detail = format!("a body may have {MAX_BODY} octets; none is needed");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
        Err(_) => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come").into_response()
        }
    }
}

/// Runs `work` in a thread where it may take its time; `place` is held until it ends, even if
/// the client goes before.
async fn blocking<T: Send + 'static>(
    place: Place,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let work = move || {
        let _place = place;
        work()
    };
    let failed = |error: tokio::task::JoinError| {
        tracing::error!(%error, "a request of the admin API failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a bug: the log says more")
    };
    spawn_blocking(work).await.map_err(failed)
}

/// The right to a blocking thread.
#[expect(dead_code, reason = "what is inside is held, not read")]
enum Place {
    List(Option<OwnedSemaphorePermit>),
    Only(OwnedMutexGuard<()>),
}

impl Shared {
    async fn list_place(&self) -> Place {
        // The semaphore is never closed.
        Place::List(Arc::clone(&self.lists).acquire_owned().await.ok())
    }
}

async fn index() -> String {
    let mut text = format!("bindery {}\n\n", env!("CARGO_PKG_VERSION"));
    for (path, _) in routes() {
        text.push_str(path);
        text.push('\n');
    }
    text.push_str("\nPaths below /api want the header `Authorization: Bearer TOKEN`.\n");
    text
}

async fn readyz(State(shared): Api) -> impl IntoResponse {
    let view = ReadyView::of(&shared.node);
    let status = if view.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(view))
}

async fn metrics(State(shared): Api) -> impl IntoResponse {
    let text = metrics::encode(Sample::of(&shared.node));
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

/// What hooks are sent, and what they may answer.
async fn webhooks() -> impl IntoResponse {
    let text = include_str!("../../docs/examples/webhooks.openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], text)
}

async fn status(State(shared): Api) -> Json<StatusView> {
    Json(StatusView::of(&shared.node))
}

/// Whether all bindings are here: what is still being read from disk can't be told from what is
/// not there.
fn restored(node: &Node) -> Result<(), Problem> {
    let detail = "registrations are being restored: ask again in a few seconds";
    let problem = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    if node.location.is_loading() { Err(problem()) } else { Ok(()) }
}

async fn list(
    State(shared): Api,
    query: Result<UrlQuery<Query>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    restored(&shared.node)?;
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let UrlQuery(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let listing = Listing::new(query, shared.node.started().unix).map_err(bad)?;
    let place = shared.list_place().await;
    blocking(place, move || listing.page(&shared.node)).await.map(Json)
}

/// What `/api/v1/calls` is asked with.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CallsQuery {
    limit: Option<usize>,
    cursor: Option<u64>,
}

/// Calls of a page, unless asked for otherwise, and at most.
const CALLS: (usize, usize) = (100, 1000);

async fn calls(
    State(shared): Api,
    query: Result<UrlQuery<CallsQuery>, QueryRejection>,
) -> Result<Json<CallPage>, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let UrlQuery(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(CALLS.0);
    if !(1..=CALLS.1).contains(&limit) {
        return Err(bad(format!("limit: 1 to {}", CALLS.1)));
    }
    let place = shared.list_place().await;
    let list = move || {
        let node = &shared.node;
        let now = node.clock.now();
        let mut found = node.calls.list(query.cursor.unwrap_or(0), limit + 1);
        let next = if found.len() > limit { found.pop() } else { None };
        CallPage {
            items: found.iter().map(|call| CallView::new(call, now)).collect(),
            next: next.map(|call| call.id.to_string()),
        }
    };
    blocking(place, list).await.map(Json)
}

async fn show(State(shared): Api, uri: Uri) -> Result<Json<AorView>, Problem> {
    let Target { aor, .. } = Target::of(&uri)?;
    let node = &shared.node;
    restored(node)?;
    let now = node.clock.now();
    for key in keys(&node.rules.load(), &aor) {
        // Copied, so that the shard is locked for a moment only.
        let copy = |record: Option<AorRecord<'_>>| record.map(|record| record.as_bytes().to_vec());
        let Some(bytes) = node.location.read(&key, copy) else { continue };
        let Some(record) = AorRecord::new(&bytes) else { continue };
        let views = record.bindings(now).map(|b| BindingView::new(&b, &node.listeners, now));
        let bindings: Vec<_> = views.collect();
        if !bindings.is_empty() {
            return Ok(Json(AorView { aor: text(&key).into_owned(), bindings }));
        }
    }
    Err(no_binding(&aor))
}

async fn remove(State(shared): Api, uri: Uri) -> Result<Json<RemovedView>, Problem> {
    let Target { aor, .. } = Target::of(&uri)?;
    remove_those(&shared.node, &aor, |_| true).map(Json)
}

async fn remove_one(State(shared): Api, uri: Uri) -> Result<Json<RemovedView>, Problem> {
    let Target { aor, id } = Target::of(&uri)?;
    let id = id.and_then(|id| parse_hex(id.as_bytes())).map(u64::from_be_bytes);
    let malformed = || Problem::new(StatusCode::BAD_REQUEST, "an id has 16 hexadecimal digits");
    let id = id.ok_or_else(malformed)?;
    let removed = remove_those(&shared.node, &aor, |other| other == id)?;
    if removed.removed == 0 {
        let detail = format!("{} has no binding {id:016x}", removed.aor);
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    Ok(Json(removed))
}

fn remove_those(
    node: &Node,
    aor: &[u8],
    which: impl Fn(u64) -> bool,
) -> Result<RemovedView, Problem> {
    restored(node)?;
    for key in keys(&node.rules.load(), aor) {
        let unsaved =
            |error: NotSaved| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
        if let Some(pruned) = node.remove(&key, &which).map_err(unsaved)? {
            let view = RemovedView::new(&key, pruned);
            if view.removed > 0 {
                let (aor, removed) = (&view.aor, view.removed);
                tracing::info!(aor, removed, "bindings were removed by the admin API");
            }
            return Ok(view);
        }
    }
    Err(no_binding(aor))
}

fn no_binding(aor: &[u8]) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("{} has no binding", text(aor)))
}

/// What `/api/v1/scripts/status` is asked with.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusQuery {
    #[serde(default)]
    module: String,
}

/// What `/api/v1/scripts/command` is asked with.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandQuery {
    line: String,
}

async fn scripts_status(
    State(shared): Api,
    query: Result<UrlQuery<StatusQuery>, QueryRejection>,
) -> Result<Json<ScriptsView>, Problem> {
    let bad =
        |rejection: QueryRejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text());
    let UrlQuery(StatusQuery { module }) = query.map_err(bad)?;
    ask_modules(&shared, EngineQuestion::Status { module }).await
}

async fn scripts_command(
    State(shared): Api,
    query: Result<UrlQuery<CommandQuery>, QueryRejection>,
) -> Result<Json<ScriptsView>, Problem> {
    let bad =
        |rejection: QueryRejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text());
    let UrlQuery(CommandQuery { line }) = query.map_err(bad)?;
    ask_modules(&shared, EngineQuestion::Command { line }).await
}

/// Scripts have as long as their `timeout` says, each of them.
async fn ask_modules(
    shared: &Shared,
    question: EngineQuestion,
) -> Result<Json<ScriptsView>, Problem> {
    let unavailable = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nobody answers");
    let answer = shared.node.ask_modules(question).ok_or_else(unavailable)?;
    let EngineAnswer { handled, text } = answer.await.map_err(|_| unavailable())?;
    Ok(Json(ScriptsView { handled, text }))
}

/// Has the back ends asked again for everybody.
async fn forget_all(State(shared): Api) -> Result<StatusCode, Problem> {
    forgotten(&shared.node, None)
}

/// Has the back ends asked again for one user.
async fn forget(State(shared): Api, uri: Uri) -> Result<StatusCode, Problem> {
    let name = uri.path().strip_prefix(CACHE).unwrap_or_default();
    let mut username = Vec::new();
    unescape_into(name.as_bytes(), &mut username);
    forgotten(&shared.node, Some(&username))
}

fn forgotten(node: &Node, username: Option<&[u8]>) -> Result<StatusCode, Problem> {
    if node.forget(username) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = "no back end is asked for accounts, or its answers are not kept";
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

async fn reload(State(shared): Api) -> Result<Json<ReloadedView>, Problem> {
    let place = Place::Only(Arc::clone(&shared.reload).lock_owned().await);
    match blocking(place, move || shared.node.reload()).await? {
        Ok(reloaded) => Ok(Json(reloaded.into())),
        Err(ReloadError::Refused(refused)) => Err(Problem::refused(&refused)),
        Err(error @ ReloadError::Auth(_)) => {
            let detail = format!("nothing was reloaded: {error}");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
    }
}

async fn snapshot(State(shared): Api) -> Result<Json<SnapshotView>, Problem> {
    let place = Place::Only(Arc::clone(&shared.snapshot).lock_owned().await);
    let failed = |error| {
        let detail = format!("the bindings could not be saved: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    };
    restored(&shared.node)?;
    let taken = blocking(place, move || shared.node.snapshot()).await?;
    taken.map(|taken| Json(taken.into())).map_err(failed)
}

/// What a path below [`BINDINGS`] names.
#[derive(Debug, PartialEq, Eq)]
struct Target<'u> {
    /// The AoR, its percent-encoding resolved: it may hold any octet.
    aor: Vec<u8>,
    id: Option<&'u str>,
}

impl<'u> Target<'u> {
    fn of(uri: &'u Uri) -> Result<Self, Problem> {
        let malformed = || Problem::new(StatusCode::BAD_REQUEST, "this path names no AoR");
        let path = uri.path().strip_prefix(BINDINGS).ok_or_else(malformed)?;
        let (aor, id) = path.split_once('/').map_or((path, None), |(aor, id)| (aor, Some(id)));
        let mut octets = Vec::new();
        unescape_into(aor.as_bytes(), &mut octets);
        Ok(Self { aor: octets, id })
    }
}

/// The keys of the location service that an AoR may mean, the likeliest first: the AoR in its
/// canonical form; where there is one domain, a user of it; in a flat namespace, the user part
/// with any domain.
fn keys<'a>(rules: &Rules, aor: &'a [u8]) -> Vec<Cow<'a, [u8]>> {
    match split_name(aor) {
        Some((user, _)) if rules.domains.is_flat() => vec![aor.into(), user.into()],
        Some((user, domain)) => {
            let mut key = [user, b"@"].concat();
            canonical_host_into(domain, &mut key);
            vec![key.into()]
        }
        None => vec![rules.aor_of_section(aor)],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn paths_name_any_octets() {
        for (path, aor, id) in [
            ("/api/v1/bindings/alice@example.com", &b"alice@example.com"[..], None),
            ("/api/v1/bindings/a%2Fb%FF%40example.com/00ff", b"a/b\xff@example.com", Some("00ff")),
        ] {
            let uri = Uri::from_static(path);
            assert_eq!(Target::of(&uri).unwrap(), Target { aor: aor.to_vec(), id });
        }
    }

    #[test]
    fn openapi_names_every_path() {
        let openapi: serde_json::Value =
            serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: BTreeSet<&str> =
            openapi["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = routes();
        let served: BTreeSet<&str> = routes.iter().map(|(path, _)| *path).collect();
        assert_eq!(described, served);
        for open in OPEN {
            assert!(served.contains(open));
            assert_eq!(openapi["paths"][open]["get"]["security"], serde_json::json!([]));
        }
    }
}
