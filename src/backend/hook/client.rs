//! Requests to one receiver: connections that are kept, HTTP/1.1 or, where TLS finds that both speak
//! it, HTTP/2.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
    http::uri::Scheme,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::signature;
use crate::{
    backend::sql::trusting,
    config::hooks::{Event, Hook},
};

/// Octets of an answer: a route with all its targets has a tenth of that.
pub(super) const MAX_ANSWER: usize = 64 << 10;

/// Octets of an answer's headers, on both HTTP versions.
const MAX_HEADERS: usize = 32 << 10;

/// How long a connection is kept that nobody uses: shorter than most receivers keep one.
const IDLE: Duration = Duration::from_secs(20);

/// How often a receiver is asked over HTTP/2 whether it is still there, and how long it may take.
const ALIVE: Duration = Duration::from_secs(5);

type Http = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// What a receiver is reached with.
pub(super) struct Client {
    http: Result<Http, String>,
    hook: Hook,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("hook", &self.hook.name).finish_non_exhaustive()
    }
}

/// What a receiver answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Silence {
    /// Nobody took the connection, or it ended before there was an answer.
    #[error("{0}")]
    Connection(String),
    /// It took longer than it may.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// More than anybody needs.
    #[error("an answer of more than {MAX_ANSWER} octets")]
    TooLong,
}

impl Client {
    /// A client for this hook. What its files lack is told with each request.
    pub(super) fn new(hook: &Hook) -> Self {
        Self { http: http(hook), hook: hook.clone() }
    }

    pub(super) fn hook(&self) -> &Hook {
        &self.hook
    }

    /// Sends one request and waits for its answer, for as long as it takes: the caller bounds it.
    pub(super) async fn post(
        &self,
        (event, id): (Event, &str),
        body: Bytes,
        unix: u64,
    ) -> Result<Reply, Silence> {
        let http = self.http.as_ref().map_err(|error| Silence::Connection(error.clone()))?;
        let mut is_again = false;
        loop {
            let signature = signature::sign(&self.hook.secret.0, unix, &body);
            let request = Request::builder()
                .method(Method::POST)
                .uri(&self.hook.url)
                .header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json")
                .header(USER_AGENT, concat!("bindery/", env!("CARGO_PKG_VERSION")))
                .header(signature::HEADER, signature)
                .header("bindery-event", event.as_str())
                .header("bindery-delivery", id)
                .body(Full::new(body.clone()))
                .map_err(|error| Silence::Connection(error.to_string()))?;
            match http.request(request).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let limited = Limited::new(response.into_body(), MAX_ANSWER);
                    let body = limited.collect().await.map_err(|error| {
                        if error.is::<LengthLimitError>() {
                            Silence::TooLong
                        } else {
                            Silence::Connection(chain_of(&*error))
                        }
                    })?;
                    return Ok(Reply { status, body: body.to_bytes() });
                }
                // The receiver ended a connection that was kept just as we took it: that says
                // nothing about the receiver.
                Err(error) if !is_again && was_closed(&error) => is_again = true,
                Err(error) => return Err(Silence::Connection(chain_of(&error))),
            }
        }
    }

    /// Connects, with TLS where the URL says so, and sends nothing.
    ///
    /// # Errors
    /// Why it can't be reached.
    pub(super) async fn connect(&self) -> Result<(), String> {
        let url = &self.hook.url;
        let host = url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = tokio::net::TcpStream::connect((&*bare, port)).await;
        let stream = stream.map_err(|error| format!("{host}:{port}: {error}"))?;
        if is_tls {
            let config = trusting(self.hook.ca_file.as_deref())?;
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let name = rustls::pki_types::ServerName::try_from(bare).map_err(|e| e.to_string())?;
            let handshake = connector.connect(name, stream).await;
            handshake.map_err(|error| format!("{host}:{port}: {error}"))?;
        }
        Ok(())
    }
}

fn http(hook: &Hook) -> Result<Http, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(hook.timeout));
    let tls = if hook.url.scheme() == Some(&Scheme::HTTPS) {
        trusting(hook.ca_file.as_deref())?
    } else {
        ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(hook.concurrency)
        .http1_max_buf_size(MAX_HEADERS)
        .http2_max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
        // A connection that has died without a word would take all questions with it.
        .http2_keep_alive_interval(ALIVE)
        .http2_keep_alive_timeout(ALIVE);
    Ok(builder.build(connector))
}

/// Whether a connection ended before it had an answer.
fn was_closed(error: &legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let hyper = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    hyper.is_some_and(|error| {
        error.is_incomplete_message() || error.is_closed() || error.is_canceled()
    })
}

/// An error with what led to it: hyper's own texts end where it gets interesting.
fn chain_of(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Where a URL leads, for people.
pub(super) fn shown(url: &Uri) -> String {
    // Without the query, which may hold what is nobody's business.
    let host = url.authority().map_or("", |authority| authority.as_str());
    format!("{}://{host}{}", url.scheme_str().unwrap_or("http"), url.path())
}
