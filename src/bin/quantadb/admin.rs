//! The admin pages over HTTP: `/metrics`, `/livez`, `/readyz`, and the log level.
//!
//! | page | answer |
//! |---|---|
//! | `GET /metrics` | Prometheus text |
//! | `GET /livez` | 200 while the node has not failed, else 500 and why |
//! | `GET /readyz` | 200 while requests would be served, else 503 and why |
//! | `GET /log-level`, `PUT /log-level` | the least level that is logged; a body such as `debug` changes it |
//!
//! Few connections at once, each with a bounded head, body and life: whoever is slow here takes nothing from clients.

use crate::{configuration::LogLevel, exposition::Page, logging::Level};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use quantadb::{node::Node, server};
use slog::{Logger, debug, info, warn};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// How long a request's head may take, and how long a connection may stay without one.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// How long a connection may live in all; a scraper connects again.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Buffer for a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// The longest body that any page takes.
const BODY_BYTES_MAX: usize = 64;
/// After a failed accept, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PAGES: &str = "there is no such page; there are /metrics, /livez, /readyz and /log-level\n";

/// What the pages tell of.
pub struct Pages {
    pub node: Arc<Node>,
    pub server: Arc<server::Metrics>,
    pub lines_dropped: Arc<AtomicU64>,
    pub level: Level,
    /// Set when shutdown begins.
    pub stopping: AtomicBool,
    pub log: Logger,
}

type Reply = Response<Full<Bytes>>;

/// Serves the pages until it is dropped. The listener is taken over by the runtime of whoever awaits this.
pub async fn serve(listener: std::net::TcpListener, pages: Arc<Pages>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(pages.log, "the admin pages are not served"; "error" => %error),
    };
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, _)) => {
                let pages = Arc::clone(&pages);
                connections.spawn(async move {
                    let _permit = permit;
                    connection(socket, &pages).await;
                });
            }
            Err(error) => {
                warn!(pages.log, "an admin connection could not be accepted"; "error" => %error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, pages: &Arc<Pages>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request, pages).await) });
    if let Ok(Err(error)) = timeout(LIFE_MAX, http.serve_connection(TokioIo::new(socket), service)).await {
        debug!(pages.log, "an admin connection broke"; "error" => %error);
    }
}

async fn answer(request: Request<Incoming>, pages: &Pages) -> Reply {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (path.as_str(), &method) {
        ("/metrics", &Method::GET) => {
            let mut reply = text(StatusCode::OK, pages.metrics());
            let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            reply.headers_mut().insert(CONTENT_TYPE, kind);
            reply
        }
        ("/livez", &Method::GET) => match pages.node.failure() {
            None => text(StatusCode::OK, "alive\n"),
            Some(failure) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{failure}\n")),
        },
        ("/readyz", &Method::GET) => match pages.unready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        ("/log-level", &Method::GET) => text(StatusCode::OK, format!("{}\n", pages.level.name())),
        ("/log-level", &Method::PUT) => set_level(request, pages).await,
        ("/log-level", _) => not_allowed("GET, PUT"),
        ("/metrics" | "/livez" | "/readyz", _) => not_allowed("GET"),
        _ => text(StatusCode::NOT_FOUND, PAGES),
    }
}

/// Changes the log level to what the body says.
async fn set_level(request: Request<Incoming>, pages: &Pages) -> Reply {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let Ok(Ok(body)) = timeout(HEAD_MAX, body).await else {
        return text(StatusCode::BAD_REQUEST, format!("a level is a word of at most {BODY_BYTES_MAX} bytes\n"));
    };
    let word = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    match word.parse::<LogLevel>() {
        Err(what) => text(StatusCode::BAD_REQUEST, format!("{what}\n")),
        Ok(level) => {
            pages.level.set(level);
            info!(pages.log, "log level changed"; "level" => level.name());
            text(StatusCode::OK, format!("{}\n", level.name()))
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
}

fn not_allowed(methods: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("allowed here: {methods}\n"));
    reply.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static(methods));
    reply
}

impl Pages {
    /// Why requests would not be served, if so.
    fn unready(&self) -> Option<String> {
        if let Some(failure) = self.node.failure() {
            return Some(failure.to_string());
        }
        if self.stopping.load(Ordering::Acquire) {
            return Some("the server is stopping".into());
        }
        (!self.node.metrics().leading.load(Ordering::Acquire)).then(|| "no leader yet".into())
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        page.text("build_info", "The build that serves.", "version", env!("CARGO_PKG_VERSION"));
        page.seconds("uptime_seconds", "Since the node started.", self.node.uptime());
        page.number("ready", "Whether requests would be served.", u64::from(self.unready().is_none()));
        page.floor("server", &self.server.counters());

        let node = self.node.metrics();
        let (requests, bytes) = self.node.under_way();
        page.number("node_leading", "Whether this node leads.", u64::from(node.leading.load(Ordering::Relaxed)));
        page.number("node_term", "The current term.", node.term.load(Ordering::Relaxed));
        page.number("node_requests_under_way", "Requests that wait for the committer.", requests as u64);
        page.number("node_under_way_bytes", "Bytes in requests that wait for the committer.", bytes as u64);
        page.floor("node", &node.counters());
        if let Some(log) = self.node.log_metrics() {
            page.floor("log", &log.counters());
        }

        let (engine, usage) = (self.node.engine(), self.node.engine().usage());
        page.number("storage_version", "The last version applied.", engine.visible().0);
        page.number("storage_horizon_version", "The oldest version that can be read.", usage.horizon.0);
        page.number("storage_oldest_pin_version", "The oldest version that a reader holds.", usage.oldest_pin.0);
        page.number("storage_keys", "Keys that exist.", usage.keys);
        page.number("storage_pins", "Versions that readers hold.", usage.pins);
        page.number("storage_bytes", "Bytes held: keys, values and what they cost, estimated from above.", usage.bytes);
        page.number("storage_max_bytes", "Past so many bytes writes are refused.", usage.bytes_max);
        page.number("storage_history_bytes", "Bytes of superseded versions.", usage.history_bytes);

        let dropped = self.lines_dropped.load(Ordering::Relaxed);
        page.number("log_lines_dropped_total", "Log lines dropped because their buffer was full.", dropped);
        page.finish()
    }
}
