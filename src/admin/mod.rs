//! The node's own words, over HTTP: whether it lives and is ready, what it holds warm and why, which chains it has learned.
//!
//! It answers from plain values that a [`Node`] gives it. Must not: change anything, or know where the values come from.
//!
//! Bounds: 64 requests at once (another one is told to come again), 1,000 functions a page, no request bodies. It has no
//! authentication of its own, so it listens on the loopback interface unless it is told otherwise.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use crate::types::{ChainExplanation, FunctionExplanation, FunctionName, FunctionSummary};

/// Requests that are answered at once.
const REQUESTS_MAX: usize = 64;
/// Functions on one page (inclusive), and where nothing is said.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;
/// How long requests that are under way may take at the end.
const STOP: Duration = Duration::from_millis(500);

/// What is asked. Called on the admin's thread: it may take a lock for as long as it copies values.
pub trait Node: Send + Sync + 'static {
    /// Why it cannot go on, where it cannot.
    fn failure(&self) -> Option<String>;

    /// Why it takes no calls now, where it does not.
    fn not_ready(&self) -> Option<String>;

    /// Functions after a name, in the order of their names, at most `limit`.
    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary>;

    /// Why a function's target is what it is; `None` where it is not known.
    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation>;

    /// The chains that begin with a function, or all.
    fn chains(&self, from: Option<&FunctionName>) -> Vec<ChainExplanation>;
}

/// Why the interface is not there.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address.
    #[error("admin.listen: {address} cannot be listened on: {source}; another node may have it")]
    Listen {
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
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on `address` (`host:port`; port 0: any that is free) and answers on a thread of its own.
    ///
    /// # Errors
    /// Where the address cannot be had, or the thread cannot be started.
    pub fn start(address: &str, node: Arc<dyn Node>) -> Result<Self, AdminError> {
        let fault = |source| AdminError::Listen { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let bound = listener.local_addr().map_err(fault)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Start)?;
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let ended = async {
                // Its sender gone is the end, too.
                let _ = stopped.await;
            };
            axum::serve(listener, router(node)).with_graceful_shutdown(ended).await
        };
        let body = move || {
            if let Err(error) = runtime.block_on(serve) {
                tracing::warn!(%error, "the admin interface has ended");
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(body).map_err(AdminError::Start)?;
        tracing::info!(address = %bound, "the admin interface listens");
        Ok(Self { address: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Gone where the thread has ended by itself.
            let _ = stop.send(());
        }
        let Some(thread) = self.thread.take() else { return };
        let asked = std::time::Instant::now();
        // A client that holds its connection open must not hold up the node's end.
        while !thread.is_finished() && asked.elapsed() < STOP {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            drop(thread.join());
        }
    }
}

type Shared = Arc<dyn Node>;

fn router(node: Shared) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    let bounded = move |request: Request, next: Next| {
        let permits = Arc::clone(&permits);
        async move {
            match permits.try_acquire() {
                Ok(_permit) => next.run(request).await,
                Err(_) => fault(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: come again"),
            }
        }
    };
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/functions", get(functions))
        .route("/functions/{*name}", get(explain))
        .route("/chains", get(chains))
        .fallback(|| async {
            let known = "there are /health/live, /health/ready, /functions, /functions/NAME and /chains?from=NAME";
            fault(StatusCode::NOT_FOUND, known)
        })
        .layer(middleware::from_fn(bounded))
        .with_state(node)
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn health(reason: Option<String>) -> Response {
    match reason {
        None => Json(Health { status: "ok", reason }).into_response(),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "not ok", reason })).into_response(),
    }
}

fn fault(status: StatusCode, error: &str) -> Response {
    (status, Json(serde_json::json!({ "error": error }))).into_response()
}

async fn live(State(node): State<Shared>) -> Response {
    health(node.failure())
}

async fn ready(State(node): State<Shared>) -> Response {
    health(node.failure().or_else(|| node.not_ready()))
}

#[derive(Deserialize)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

async fn functions(State(node): State<Shared>, Query(page): Query<Page>) -> Response {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    Json(node.functions(page.after.as_deref(), limit)).into_response()
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

async fn chains(State(node): State<Shared>, Query(asked): Query<From>) -> Response {
    let from = match asked.from.as_deref().map(FunctionName::new).transpose() {
        Ok(from) => from,
        Err(invalid) => return fault(StatusCode::BAD_REQUEST, &invalid.to_string()),
    };
    Json(node.chains(from.as_ref())).into_response()
}

#[cfg(test)]
mod tests;
