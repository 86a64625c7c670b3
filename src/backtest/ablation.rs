//! An ablation study: the same single calls and notices through the whole control plane, and again with each of its mechanisms
//! switched off by itself.
//!
//! A mechanism is switched off from outside, by the settings, the model or the workload, so that the code is the code that
//! ships.
//!
//! Must not: add a switch to the service.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::events::{self, Settings};
use super::holding::{self, Holding};
use super::workload::{What, Workload};
use crate::forecast::history::{Model, Trees};

/// A score of which the probability is nothing: `1 / (1 + e^100)`.
const NEVER: f32 = -100.0;

/// A part of the control plane that can be switched off by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    /// Pre-triggers: none is sent.
    Notices,
    /// What is learned of sources: each notice comes from a source of its own, which is believed as it says.
    Sources,
    /// Chains are neither learned nor acted on.
    Chains,
    /// The model of history expects no call at all.
    History,
    /// Peaks of calls in flight are forgotten at once.
    Peaks,
    /// The level that history asks for falls at once.
    Hysteresis,
}

impl Mechanism {
    const ALL: [Self; 6] = [Self::Notices, Self::Sources, Self::Chains, Self::History, Self::Peaks, Self::Hysteresis];

    fn name(self) -> &'static str {
        match self {
            Self::Notices => "notices",
            Self::Sources => "sources",
            Self::Chains => "chains",
            Self::History => "history",
            Self::Peaks => "peaks",
            Self::Hysteresis => "hysteresis",
        }
    }

    /// The workload and the settings without it.
    fn without(self, workload: &Workload, settings: &Settings) -> (Workload, Settings) {
        let (mut workload, mut settings) = (workload.clone(), settings.clone());
        match self {
            Self::Notices => workload.happenings.retain(|(_, what)| !matches!(what, What::Announced { .. })),
            Self::Sources => {
                for (nth, (_, what)) in workload.happenings.iter_mut().enumerate() {
                    if let What::Announced { notice, .. } = what {
                        notice.source = format!("{}-{nth}", notice.source);
                    }
                }
            }
            Self::Chains => settings.chains.enabled = false,
            Self::History => settings.model = expects_nothing(),
            // The shortest window whose buckets are not empty.
            Self::Peaks => settings.forecast.history_window = Duration::from_micros(12),
            Self::Hysteresis => settings.target.shrink_after = Duration::ZERO,
        }
        (workload, settings)
    }
}

/// A model by which no call is ever likely.
fn expects_nothing() -> Model {
    fn never<const N: usize>() -> Arc<Trees<N>> {
        #[expect(clippy::expect_used, reason = "without a tree there is nothing to be wrong with")]
        Arc::new(Trees::new(NEVER, Vec::new(), Vec::new()).expect("a set without a tree is one"))
    }
    Model { first: never(), further: never() }
}

/// How the calls went with everything, and without each mechanism.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ablation {
    /// `all` first.
    pub rows: Vec<Holding>,
}

/// Replays the workload once as it is, and once without each mechanism.
pub fn run(workload: &Workload, settings: &Settings) -> Ablation {
    let mut rows = vec![Holding::of("all", &events::run(workload, settings))];
    rows.extend(Mechanism::ALL.map(|mechanism| {
        let (workload, settings) = mechanism.without(workload, settings);
        Holding::of(&format!("without {}", mechanism.name()), &events::run(&workload, &settings))
    }));
    Ablation { rows }
}

impl Ablation {
    /// The study as plain text.
    pub fn table(&self) -> String {
        format!("Ablation\n\n{}", holding::table(&self.rows.iter().collect::<Vec<_>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Call;
    use super::super::workload::{Bursts, Chains, Sender};
    use super::*;
    use crate::types::{Reuse, Timestamp};

    /// What is ready without a mechanism, by its name.
    fn ready(ablation: &Ablation, name: &str) -> f64 {
        let name = if name == "all" { name.to_owned() } else { format!("without {name}") };
        ablation.rows.iter().find(|row| row.policy == name).unwrap().ready_share.unwrap()
    }

    #[test]
    fn announced_bursts_need_their_notices() {
        let sender = |name: &str, lies| Sender { name: name.to_owned(), episodes: 60, misses: 0.0, lies };
        let senders = vec![sender("honest", 0.0), sender("liar", 0.9)];
        let made = Bursts { senders, lasts: Duration::from_secs(600), ..Bursts::default() };
        let ablation = run(&made.make(), &Settings::default());
        assert!(ready(&ablation, "notices") < ready(&ablation, "all") - 0.1, "{}", ablation.table());
        // Whoever believes a liar prepares more for nobody.
        let never_used = |nth: usize| ablation.rows[nth].never_used;
        assert!(never_used(2) > never_used(0), "{}", ablation.table());
        // Without chains in the workload nothing of them is missed.
        assert_eq!(ablation.rows[3].starts, ablation.rows[0].starts);
    }

    #[test]
    fn chains_that_history_does_not_hold_need_chains() {
        let made = Chains { occurrences: 40, gap: Duration::from_secs(150), unrelated: 3, ..Chains::default() };
        let settings = Settings { model: expects_nothing(), ..Settings::default() };
        let ablation = run(&made.make(), &settings);
        assert!(ready(&ablation, "chains") < ready(&ablation, "all"), "{}", ablation.table());
        assert_eq!(ablation.rows[1].starts, ablation.rows[0].starts, "there are no notices");
    }

    #[test]
    fn without_history_nothing_is_held_for_what_comes_every_few_minutes() {
        let call = |nth: i64| Call {
            at: Timestamp::from_millis(1_000_000_000 + nth * 300_000),
            function: "f".parse().unwrap(),
            run: Duration::from_millis(10),
        };
        let workload = Workload::recorded(&(0..60).map(call).collect::<Vec<_>>(), Reuse::Reuse);
        let ablation = run(&workload, &Settings::default());
        assert!(ready(&ablation, "all") > 0.8 && ready(&ablation, "history") < 0.1, "{}", ablation.table());
        assert_eq!(ablation.table().lines().count(), 3 + 1 + Mechanism::ALL.len());
    }
}
