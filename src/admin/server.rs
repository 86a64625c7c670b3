//! The thread that takes connections and answers them.
//!
//! Whoever connects holds neither the node's handles nor its end: connections are few, a request's head has its time, and so
//! has a connection. Must not: know what is asked, or who may ask.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use super::connections::Connections;

/// Connections of one listener that are held at once (inclusive).
pub(super) const CONNECTIONS_MAX: usize = 128;
/// One in so many of the handles that the process may have is a listener's. The others are for brokers, artifacts and guests.
const HANDLES_SHARE: u64 = 8;
/// How long a request's head may take, from the connection's begin or the answer before it.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// How long an answer may take that is under way when its connection has to end.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// How long requests that are under way may take at the end.
const STOP: Duration = Duration::from_millis(500);
/// Before connections are taken again where none could be taken, as for want of handles.
const TAKE_AGAIN: Duration = Duration::from_millis(100);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The thread. Dropping it ends it.
pub(super) struct Server {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers the requests of each listener by its routes.
    pub(super) fn start(listeners: Vec<(TcpListener, Router)>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(());
        let body = move || {
            runtime.block_on(async {
                let listeners = listeners.into_iter().map(|(listener, routes)| {
                    let stopped = stopped.clone();
                    tokio::spawn(async move {
                        if let Err(error) = listen(listener, routes, stopped).await {
                            tracing::warn!(%error, "the admin interface has ended");
                        }
                    })
                });
                for listener in listeners.collect::<Vec<_>>() {
                    // A task that panicked has said so.
                    drop(listener.await);
                }
            });
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(body)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return };
        let asked = Instant::now();
        // A client that holds its connection open must not hold up the node's end.
        while !thread.is_finished() && asked.elapsed() < STOP {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            drop(thread.join());
        }
    }
}

/// How many connections a listener may have where the process may have so many handles.
fn connections_max(handles: Option<u64>) -> usize {
    let share = handles.map_or(usize::MAX, |handles| usize::try_from(handles / HANDLES_SHARE).unwrap_or(usize::MAX));
    share.clamp(4, CONNECTIONS_MAX)
}

type Table = Arc<Mutex<Connections>>;

fn locked(table: &Table) -> MutexGuard<'_, Connections> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections until it is stopped, which the end of `stopped`'s sender says.
async fn listen(listener: TcpListener, routes: Router, mut stopped: watch::Receiver<()>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let max = connections_max(getrlimit(Resource::Nofile).current);
    let table: Table = Arc::new(Mutex::new(Connections::new(max)));
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = locked(&table).admit(Instant::now());
                // Without a place it is closed here.
                if let Some((number, closed)) = place {
                    tokio::spawn(answer(stream, routes.clone(), Arc::clone(&table), number, closed, stopped.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot take a connection");
                tokio::time::sleep(TAKE_AGAIN).await;
            }
        }
    }
    drop(listener);
    let until = Instant::now() + ANSWER_TIME;
    while locked(&table).len() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Answers what comes by one connection, until it ends, has to make room, has lasted long enough, or the node ends.
async fn answer(
    stream: TcpStream,
    routes: Router,
    table: Table,
    number: u64,
    closed: oneshot::Receiver<()>,
    mut stopped: watch::Receiver<()>,
) {
    let _ended = Ended { table: &table, number };
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        locked(&table).asks(number);
        let (answer, table) = (routes.call(request), &table);
        async move {
            let answer = answer.await;
            locked(table).is_answered(number, Instant::now());
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A request that is wrong is its client's affair.
        _ = connection.as_mut() => return,
        _ = closed => return,
        _ = stopped.changed() => {}
        () = tokio::time::sleep(CONNECTION_TIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(ANSWER_TIME, connection).await;
}

/// Gives a connection's place back.
struct Ended<'a> {
    table: &'a Table,
    number: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        locked(self.table).ended(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_kept_back_for_what_is_not_admin() {
        assert_eq!([Some(300), Some(1_024), Some(65_536), None, Some(8)].map(connections_max), [37, 128, 128, 128, 4]);
    }
}
