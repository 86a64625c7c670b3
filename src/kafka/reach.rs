//! Whether brokers answer at all, asked before a command does anything else, so that it can say soon why not.
//!
//! Duty: an answer, or the address and the reason within 5 s. Must not: be asked by the service, which waits for its brokers.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, Producer};

use super::listener::Listener;
use super::{ClientError, Connection};

const ROLE: &str = "reach";
/// How long brokers may take to answer before it is asked why they do not. With [`PROBE`] it stays below 5 s.
const ANSWER: Duration = Duration::from_secs(4);
/// How long a look may take whether anything listens at their addresses.
const PROBE: Duration = Duration::from_millis(600);
/// How long brokers may take where something listens and only does not answer in time: a busy machine is no fault.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one request waits.
const REQUEST: Duration = Duration::from_millis(500);
/// Events that are picked up after a request; more come after the next.
const EVENTS_MAX: usize = 200;

/// Waits until a broker answers. `say` gets the reason, once, where it goes on waiting beyond 5 s.
///
/// # Errors
/// Where none answers: with the addresses and the reason.
pub fn reach(connection: &Connection, topic: &str, mut say: impl FnMut(&str)) -> Result<(), ClientError> {
    let mut config = connection.admin();
    if !connection.properties.contains_key("socket.connection.setup.timeout.ms") {
        // So that an address where nobody answers is named before the time is over.
        config.set("socket.connection.setup.timeout.ms", "3500");
    }
    let asking: BaseProducer<Listener> =
        config.create_with_context(Listener::new(ROLE)).map_err(|error| ClientError::create(ROLE, &error))?;
    let (began, mut has_said) = (Instant::now(), false);
    loop {
        let asked = Instant::now();
        let Err(fault) = asking.client().fetch_metadata(Some(topic), REQUEST) else { return Ok(()) };
        // What librdkafka reports waits to be picked up, one event at a time, lines of its log among them.
        (0..EVENTS_MAX).for_each(|_| asking.poll(Duration::ZERO));
        if began.elapsed() < ANSWER {
            // A request that fails at once is not repeated at once.
            thread::sleep(Duration::from_millis(100).saturating_sub(asked.elapsed()));
            continue;
        }
        let servers = &connection.bootstrap_servers;
        let heard = asking.context().heard();
        let unreachable = |reason: String| ClientError::Unreachable { servers: servers.clone(), reason };
        let is_late = heard.as_ref().is_none_or(|heard| heard.contains("timed out"));
        if has_said || (is_late && listens(servers)) {
            let reason = heard.unwrap_or_else(|| format!("it takes connections and does not answer ({fault})"));
            if began.elapsed() >= PATIENCE {
                return Err(unreachable(reason));
            }
            if !has_said {
                say(&format!("{}; still trying", unreachable(reason)));
                has_said = true;
            }
            continue;
        }
        let silent = || {
            format!(
                "no connection, and no reason within {ANSWER:?}; a name that no server resolves, or a host that drops what comes ({fault})"
            )
        };
        return Err(unreachable(heard.unwrap_or_else(silent)));
    }
}

/// Whether something takes connections at one of the addresses, within [`PROBE`].
fn listens(servers: &str) -> bool {
    let (tell, told) = mpsc::channel();
    for server in servers.split(',') {
        let server = server.trim().rsplit("://").next().unwrap_or_default().to_owned();
        let tell = tell.clone();
        // A name may take longer to resolve than anybody waits; then the thread is left to itself.
        let probe = move || {
            let mut addresses = server.to_socket_addrs().into_iter().flatten();
            let found = addresses.any(|address| TcpStream::connect_timeout(&address, PROBE).is_ok());
            // Nobody listens any more where it took too long.
            let _ = tell.send(found);
        };
        // Without a thread nothing is found.
        drop(thread::Builder::new().name("probe".to_owned()).spawn(probe));
    }
    drop(tell);
    let by = Instant::now() + PROBE;
    while let Ok(found) = told.recv_timeout(by.saturating_duration_since(Instant::now())) {
        if found {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(servers: &str) -> String {
        let connection = Connection { bootstrap_servers: servers.to_owned(), ..Connection::default() };
        let began = Instant::now();
        let said = reach(&connection, "calls", |_| {}).unwrap_err().to_string();
        // The promise is 5 s; a busy machine has some more.
        assert!(began.elapsed() < Duration::from_secs(60), "{said}");
        said
    }

    #[test]
    fn brokers_that_nobody_reaches_are_named_with_the_reason() {
        // A reserved name, that no server of names has.
        let said = refused("nobody.invalid:9092");
        assert!(said.contains("nobody.invalid:9092") && said.contains("Failed to resolve"), "{said}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = refused(&free.to_string());
        assert!(said.contains(&free.to_string()) && said.contains("refused"), "{said}");
    }

    #[test]
    fn what_takes_connections_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(&format!("nobody.invalid:1, PLAINTEXT://{address}")));
        drop(listener);
        assert!(!listens(&address.to_string()));
        assert!(!listens("no address"));
    }
}
