//! The node's own words, over HTTP: whether it lives and is ready, what it holds warm and why, which chains it has learned.
//!
//! It answers from plain values that a [`Node`] gives it. Must not: change anything, or know where the values come from.
//!
//! Bounds: 128 connections a listener, or fewer where handles are few; 5 s for a request's head, 60 s for a connection; 64 requests
//! at once (another one is told to come again), 1,000 functions a page, 100 conditions, no request bodies. It has no authentication
//! of its own, so it listens on the loopback interface unless it is told otherwise, and answers only requests that name it.

mod connections;
mod guard;
mod server;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use self::guard::Guard;
use self::server::Server;
use crate::config;
use crate::types::{ChainExplanation, Condition, FunctionExplanation, FunctionName, FunctionSummary};

/// Requests that are answered at once.
const REQUESTS_MAX: usize = 64;
/// Functions on one page (inclusive), and where nothing is said.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;
/// Conditions that are named beside a node's health; the others are in its metric.
const CONDITIONS_MAX: usize = 100;

/// What is asked. Called on the admin's thread: it may take a lock for as long as it copies values.
pub trait Node: Send + Sync + 'static {
    /// Why it cannot go on, where it cannot.
    fn failure(&self) -> Option<String>;

    /// Why it takes no calls now, where it does not.
    fn not_ready(&self) -> Option<String>;

    /// The conditions that an operator should see to, while the node takes calls all the same.
    fn conditions(&self) -> Vec<Condition>;

    /// Functions after a name, in the order of their names, at most `limit`.
    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary>;

    /// Why a function's target is what it is; `None` where it is not known.
    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation>;

    /// The chains that begin with a function; or those of the functions after a name, in the order of their names, of at most
    /// `limit` functions.
    fn chains(&self, from: Option<&FunctionName>, after: Option<&str>, limit: usize) -> Vec<ChainExplanation>;
}

/// Why the interface is not there.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address.
    #[error("{key}: {address} cannot be listened on: {source}; another node may have it")]
    Listen {
        /// Which one.
        key: &'static str,
        /// As configured.
        address: String,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A thread or its runtime.
    #[error("the admin interface could not be started: {0}")]
    Start(std::io::Error),
}

/// The interface that runs. Dropping it ends it.
pub struct Admin {
    address: Option<SocketAddr>,
    _server: Server,
}

impl Admin {
    /// Listens on `admin.listen` and `admin.health-listen` (`host:port`; port 0: any that is free; empty: nowhere) and answers on
    /// a thread of its own.
    ///
    /// # Errors
    /// Where an address cannot be had, or the thread cannot be started.
    pub fn start(settings: &config::Admin, node: Arc<dyn Node>) -> Result<Self, AdminError> {
        let guard = Arc::new(Guard::new([&*settings.listen, &*settings.health_listen], &settings.hosts));
        let mut listeners = Vec::new();
        let mut listen = |key, address: &str, routes: Router<Shared>| {
            if address.is_empty() {
                return Ok(None);
            }
            let fault = |source| AdminError::Listen { key, address: address.to_owned(), source };
            let listener = TcpListener::bind(address).map_err(fault)?;
            listener.set_nonblocking(true).map_err(fault)?;
            let bound = listener.local_addr().map_err(fault)?;
            listeners.push((listener, bounded(routes, &guard).with_state(Arc::clone(&node))));
            Ok(Some(bound))
        };
        let address = listen("admin.listen", &settings.listen, health_routes().merge(routes()))?;
        let health = listen("admin.health-listen", &settings.health_listen, health_routes())?;
        let server = Server::start(listeners).map_err(AdminError::Start)?;
        if let Some(address) = address {
            tracing::info!(%address, "the admin interface listens");
        }
        if let Some(address) = health {
            tracing::info!(%address, "health is answered here too");
        }
        Ok(Self { address, _server: server })
    }

    /// Where it listens, where it answers more than health.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

type Shared = Arc<dyn Node>;

fn health_routes() -> Router<Shared> {
    Router::new().route("/health/live", get(live)).route("/health/ready", get(ready))
}

fn routes() -> Router<Shared> {
    Router::new()
        .route("/functions", get(functions))
        .route("/functions/{*name}", get(explain))
        .route("/chains", get(chains))
        .fallback(|| async {
            let known = "there are /health/live, /health/ready, /functions, /functions/NAME and /chains?from=NAME";
            fault(StatusCode::NOT_FOUND, known)
        })
}

/// The same routes, for requests that are meant for this node, so many at once.
fn bounded(routes: Router<Shared>, guard: &Arc<Guard>) -> Router<Shared> {
    let (permits, guard) = (Arc::new(Semaphore::new(REQUESTS_MAX)), Arc::clone(guard));
    let bounded = move |request: Request, next: Next| {
        let (permits, guard) = (Arc::clone(&permits), Arc::clone(&guard));
        async move {
            if let Some(why) = guard.refuses(request.uri(), request.headers()) {
                return fault(StatusCode::FORBIDDEN, why);
            }
            match permits.try_acquire() {
                Ok(_permit) => next.run(request).await,
                Err(_) => fault(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: come again"),
            }
        }
    };
    routes.layer(middleware::from_fn(bounded))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Condition>,
}

fn health(reason: Option<String>, mut conditions: Vec<Condition>) -> Response {
    conditions.truncate(CONDITIONS_MAX);
    match reason {
        None => Json(Health { status: "ok", reason, conditions }).into_response(),
        Some(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "not ok", reason, conditions })).into_response()
        }
    }
}

fn fault(status: StatusCode, error: &str) -> Response {
    (status, Json(serde_json::json!({ "error": error }))).into_response()
}

async fn live(State(node): State<Shared>) -> Response {
    health(node.failure(), Vec::new())
}

async fn ready(State(node): State<Shared>) -> Response {
    health(node.failure().or_else(|| node.not_ready()), node.conditions())
}

#[derive(Deserialize)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX)
    }
}

async fn functions(State(node): State<Shared>, Query(page): Query<Page>) -> Response {
    Json(node.functions(page.after.as_deref(), page.limit())).into_response()
}

async fn explain(State(node): State<Shared>, Path(name): Path<String>) -> Response {
    let name = match FunctionName::new(&name) {
        Ok(name) => name,
        Err(invalid) => return fault(StatusCode::BAD_REQUEST, &invalid.to_string()),
    };
    match node.explain(&name) {
        Some(explanation) => Json(explanation).into_response(),
        None => fault(StatusCode::NOT_FOUND, &format!("function {name} is not registered on this node")),
    }
}

#[derive(Deserialize)]
struct From {
    from: Option<String>,
}

async fn chains(State(node): State<Shared>, Query(asked): Query<From>, Query(page): Query<Page>) -> Response {
    let from = match asked.from.as_deref().map(FunctionName::new).transpose() {
        Ok(from) => from,
        Err(invalid) => return fault(StatusCode::BAD_REQUEST, &invalid.to_string()),
    };
    Json(node.chains(from.as_ref(), page.after.as_deref(), page.limit())).into_response()
}

#[cfg(test)]
mod tests;
