//! Which connections are held: a bounded number, and those that say nothing make room for others.
//!
//! Must not: read a clock or a socket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// A connection whose last answer is so old makes room. Younger answers may not have been read yet.
const IDLE: Duration = Duration::from_secs(1);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No request has come whole.
    Silent,
    /// A request is being answered.
    Busy,
    /// The last request was answered then.
    Answered(Instant),
}

#[derive(Debug)]
struct Held {
    state: State,
    /// Sent, or dropped: the connection is closed at once.
    close: oneshot::Sender<()>,
}

/// The connections that are held, by the order in which they came.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    next: u64,
    held: BTreeMap<u64, Held>,
}

impl Connections {
    /// At most `max` at once (inclusive).
    pub(super) fn new(max: usize) -> Self {
        Self { max, next: 0, held: BTreeMap::new() }
    }

    /// Takes a connection in: its number, and what ends it when it has to make room. Where there is no room, and no silent or
    /// idle connection that could make some, there is no place for it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<(u64, oneshot::Receiver<()>)> {
        if self.held.len() >= self.max {
            let victim = self.victim(now)?;
            // Closed where its task has ended meanwhile.
            let _ = self.held.remove(&victim)?.close.send(());
        }
        let (close, closed) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.held.insert(number, Held { state: State::Silent, close });
        Some((number, closed))
    }

    /// The oldest that has asked nothing, else the one that has been idle for longest.
    fn victim(&self, now: Instant) -> Option<u64> {
        let silent = self.held.iter().find(|(_, held)| held.state == State::Silent).map(|(number, _)| *number);
        silent.or_else(|| {
            let idle = self.held.iter().filter_map(|(number, held)| match held.state {
                State::Answered(at) if now.saturating_duration_since(at) >= IDLE => Some((at, *number)),
                _ => None,
            });
            idle.min().map(|(_, number)| number)
        })
    }

    /// A request has come whole.
    pub(super) fn asks(&mut self, number: u64) {
        self.set(number, State::Busy);
    }

    /// It has its answer.
    pub(super) fn is_answered(&mut self, number: u64, now: Instant) {
        self.set(number, State::Answered(now));
    }

    fn set(&mut self, number: u64, state: State) {
        if let Some(held) = self.held.get_mut(&number) {
            held.state = state;
        }
    }

    /// The connection has ended.
    pub(super) fn ended(&mut self, number: u64) {
        self.held.remove(&number);
    }

    /// Connections that are held now.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_connections_make_room_the_oldest_first() {
        let (mut connections, now) = (Connections::new(2), Instant::now());
        let mut admit = || connections.admit(now).unwrap();
        let ((first, mut first_closed), (_, mut second_closed)) = (admit(), admit());
        let (third, _third_closed) = admit();
        assert_eq!((first, third), (0, 2));
        assert!(first_closed.try_recv().is_ok());
        assert!(second_closed.try_recv().is_err());
        assert_eq!(connections.len(), 2);
    }

    #[test]
    fn a_connection_that_asks_is_kept_and_one_that_has_been_idle_is_not() {
        let (mut connections, start) = (Connections::new(2), Instant::now());
        let (first, _first_closed) = connections.admit(start).unwrap();
        let (second, mut second_closed) = connections.admit(start).unwrap();
        connections.asks(first);
        connections.asks(second);
        assert!(connections.admit(start).is_none(), "both are being answered");
        connections.is_answered(second, start);
        assert!(connections.admit(start).is_none(), "its answer may be on its way");
        assert!(connections.admit(start + IDLE).is_some());
        assert!(second_closed.try_recv().is_ok());
        connections.ended(first);
        assert_eq!(connections.len(), 1);
        // An answer on a connection that is gone changes nothing.
        connections.is_answered(first, start);
        assert_eq!(connections.len(), 1);
    }
}
