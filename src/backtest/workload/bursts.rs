//! Bursts of calls that are announced ahead, with misses and lies.
//!
//! Must not: be kind to the forecaster; what a sender knows is what a sender could know.

use std::time::Duration;

use super::super::random::Random;
use super::{What, Workload, definition, name, second};
use crate::types::{PreTrigger, Reuse};

/// Who announces bursts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sender {
    /// The source's name.
    pub name: String,
    /// Bursts and lies of it, in all.
    pub episodes: u32,
    /// The share of its bursts that it does not announce, 0.0 to 1.0 (exclusive).
    pub misses: f64,
    /// The share of its notices that no call follows, 0.0 to 1.0 (exclusive).
    pub lies: f64,
}

/// A workload of announced bursts.
#[derive(Clone, Debug, PartialEq)]
pub struct Bursts {
    /// The same seed makes the same workload.
    pub seed: u64,
    /// How many functions; each episode is about one of them.
    pub functions: u32,
    /// How long it lasts; episodes begin at any moment of it.
    pub lasts: Duration,
    /// Who announces.
    pub senders: Vec<Sender>,
    /// Calls of a burst, from and to (both inclusive).
    pub size: (u32, u32),
    /// How long before its start a burst is announced.
    pub lead: Duration,
    /// The time within which the calls of a burst come.
    pub spread: Duration,
    /// The window that notices name, from the start of the burst.
    pub window: Duration,
    /// Mean run time of a call; they are spread exponentially.
    pub run: Duration,
    /// Whether instances serve more than one call.
    pub reuse: Reuse,
}

impl Default for Bursts {
    fn default() -> Self {
        let honest = Sender { name: "honest".to_owned(), episodes: 1_000, misses: 0.2, lies: 0.2 };
        Self {
            seed: 1,
            functions: 50,
            lasts: Duration::from_hours(4),
            senders: vec![honest],
            size: (4, 12),
            lead: Duration::from_secs(1),
            spread: Duration::from_millis(500),
            window: Duration::from_secs(2),
            run: Duration::from_millis(200),
            reuse: Reuse::Reuse,
        }
    }
}

impl Bursts {
    /// Makes the workload.
    pub fn make(&self) -> Workload {
        let mut random = Random::new(self.seed);
        let mut happenings = Vec::new();
        for sender in &self.senders {
            // Of one burst that is announced there are so many that are not, and so many lies.
            let missed = sender.misses / (1.0 - sender.misses);
            let lies = sender.lies / (1.0 - sender.lies);
            for episode in 0..sender.episodes {
                let drawn = random.between(0.0, 1.0 + missed + lies);
                let (is_burst, is_announced) = (drawn < 1.0 + missed, !(1.0..1.0 + missed).contains(&drawn));
                let announced_s = random.between(0.0, self.lasts.as_secs_f64());
                let starts_s = announced_s + self.lead.as_secs_f64();
                let function = random.whole(0, self.functions.saturating_sub(1)) as usize;
                let calls = random.whole(self.size.0, self.size.1);
                if is_announced {
                    let notice = PreTrigger {
                        id: format!("{}-{episode}", sender.name),
                        source: sender.name.clone(),
                        function: name(&format!("burst-{function}")),
                        tenant: None,
                        expected_invocations: calls,
                        confidence: 1.0,
                        not_before: Some(second(starts_s)),
                        window_ms: self.window.as_millis() as u64,
                        emitted_at: second(announced_s),
                        attributes: Default::default(),
                    };
                    happenings.push((second(announced_s), What::Announced { notice, is_lie: !is_burst }));
                }
                for _ in 0..if is_burst { calls } else { 0 } {
                    let at = second(starts_s + random.between(0.0, self.spread.as_secs_f64()));
                    let run = Duration::from_secs_f64(random.exponential(self.run.as_secs_f64()));
                    happenings.push((at, What::Called { function, run, is_announced }));
                }
            }
        }
        let functions = (0..self.functions).map(|n| definition(name(&format!("burst-{n}")), self.reuse)).collect();
        Workload::new(functions, happenings)
    }
}
