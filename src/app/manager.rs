//! The words to systemd, or to another manager that listens at `NOTIFY_SOCKET`: ready, how the node stands, ending, alive.
//!
//! Must not: decide how the node stands.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// One line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Ready,
    Status(String),
    Watchdog,
}

/// The manager: the words that it was told last, and when it next wants to hear that the node is alive. Without one nobody is told.
pub(super) struct Manager {
    /// How often the manager wants to hear that the node is alive; None where it does not ask.
    every: Option<Duration>,
    ready: bool,
    status: Option<String>,
    /// The last sign of life: when it was given, and how many rounds the poll thread had made by then.
    alive: Option<(Instant, u64)>,
}

impl Manager {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        // Twice as often as it has to, as sd_watchdog_enabled(3) recommends.
        Self::new(sd_notify::watchdog_enabled().map(|limit| limit / 2))
    }

    fn new(every: Option<Duration>) -> Self {
        Self { every, ready: false, status: None, alive: None }
    }

    /// How the node stands now: why it takes no calls, empty where it takes them; and how many rounds the poll thread has made.
    pub(super) fn look(&mut self, now: Instant, not_ready: &str, rounds: u64) {
        tell(&self.next(now, not_ready, rounds));
    }

    /// The node ends.
    pub(super) fn ends() {
        send(&[NotifyState::Stopping, NotifyState::Status("ends: calls in flight are brought to their end")]);
    }

    fn next(&mut self, now: Instant, not_ready: &str, rounds: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        // Once for all: that it is ready says that its start is over.
        if !self.ready && not_ready.is_empty() {
            self.ready = true;
            lines.push(Line::Ready);
        }
        let status =
            if not_ready.is_empty() { "takes calls".to_owned() } else { format!("takes no calls: {not_ready}") };
        if self.status.as_ref() != Some(&status) {
            lines.push(Line::Status(status.clone()));
            self.status = Some(status);
        }
        if let Some(every) = self.every {
            let is_due = self.alive.is_none_or(|(told_at, _)| now.duration_since(told_at) >= every);
            // The main loop runs, or this would not; the thread that polls has to as well.
            if is_due && self.alive.is_none_or(|(_, before)| rounds != before) {
                self.alive = Some((now, rounds));
                lines.push(Line::Watchdog);
            }
        }
        lines
    }
}

fn tell(lines: &[Line]) {
    let states: Vec<NotifyState<'_>> = lines
        .iter()
        .map(|line| match line {
            Line::Ready => NotifyState::Ready,
            Line::Status(status) => NotifyState::Status(status),
            Line::Watchdog => NotifyState::Watchdog,
        })
        .collect();
    send(&states);
}

fn send(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    // Where nobody listens, nothing is sent.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager (NOTIFY_SOCKET) was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_told_once_and_how_it_stands_at_each_change() {
        let (mut manager, now) = (Manager::new(None), Instant::now());
        let status = |text: &str| Line::Status(text.to_owned());
        assert_eq!(manager.next(now, "no group", 0), [status("takes no calls: no group")]);
        assert_eq!(manager.next(now, "no group", 1), []);
        assert_eq!(manager.next(now, "", 1), [Line::Ready, status("takes calls")]);
        assert_eq!(manager.next(now, "brokers", 1), [status("takes no calls: brokers")]);
        assert_eq!(manager.next(now, "", 1), [status("takes calls")]);
    }

    #[test]
    fn a_sign_of_life_is_given_in_time_and_only_while_the_poll_thread_runs() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut manager = Manager::new(Some(Duration::from_secs(5)));
        let mut alive = |seconds, rounds| manager.next(at(seconds), "", rounds).contains(&Line::Watchdog);
        assert!(alive(0, 0));
        assert!(!alive(4, 9));
        assert!(alive(5, 9));
        assert!(!alive(10, 9), "the poll thread stands");
        assert!(!alive(60, 9));
        assert!(alive(61, 10));
    }
}
