//! Words for a time in which nothing is stored, and when to say them.
//!
//! Must not: read a clock, ask the brokers, or log.

use std::fmt;
use std::time::Duration;

use crate::kafka::PartitionSeen;

/// Calls that have waited for so long without one of them being stored are said in the log (inclusive).
pub(super) const SAID_AFTER: Duration = Duration::from_secs(3);

/// Calls wait for records of which none is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Since when none was stored.
    pub lasted: Duration,
    /// How many records calls wait for.
    pub waiting: u64,
    /// The partition that has stood longest; None where what waits was given back, or is to go into a transaction.
    pub place: Option<Place>,
    /// What a transaction waits for, and for how long; None without one.
    pub transaction: Option<(&'static str, Duration)>,
    /// What the client said last; empty where it said nothing since it last worked.
    pub last_error: String,
}

/// Where records wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition; None where it is not known yet.
    pub partition: Option<i32>,
    /// What the brokers say of it; None where they were not asked yet, or say nothing.
    pub seen: Option<PartitionSeen>,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no result stored for {:.1} s, {} wait", self.lasted.as_secs_f64(), self.waiting)?;
        if let Some((waits_for, since)) = self.transaction {
            write!(f, ", a transaction waits for {waits_for} since {:.1} s", since.as_secs_f64())?;
        }
        if let Some(place) = &self.place {
            write!(f, ", topic {}", place.topic)?;
            if let Some(partition) = place.partition {
                write!(f, " partition {partition}")?;
            }
            if let Some(PartitionSeen { leader, replicas, in_sync, .. }) = place.seen {
                match leader {
                    Some(leader) => write!(f, " (leader {leader}")?,
                    None => write!(f, " (no leader")?,
                }
                write!(f, ", {in_sync} of {replicas} replicas in sync)")?;
            }
        }
        if !self.last_error.is_empty() {
            write!(f, ", last error: {}", self.last_error)?;
        }
        Ok(())
    }
}

/// What is to be said of stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// One lasts.
    Stalled,
    /// One is over; it lasted so long.
    Over(Duration),
}

/// Says each stall once, and its end once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// How long the stall that was said has lasted, as far as was seen.
    lasted: Option<Duration>,
}

impl Said {
    /// `stalled_for` is how long nothing has been stored that calls wait for; zero where none waits.
    pub(super) fn look(&mut self, stalled_for: Duration) -> Option<Say> {
        match self.lasted {
            None if stalled_for >= SAID_AFTER => {
                self.lasted = Some(stalled_for);
                Some(Say::Stalled)
            }
            None => None,
            Some(lasted) if stalled_for >= lasted => {
                self.lasted = Some(stalled_for);
                None
            }
            Some(lasted) => {
                self.lasted = None;
                Some(Say::Over(lasted))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stall_and_its_end_are_said_once() {
        let mut said = Said::default();
        assert_eq!((said.look(Duration::ZERO), said.look(SECOND * 3 - Duration::from_millis(1))), (None, None));
        assert_eq!(said.look(SECOND * 3), Some(Say::Stalled));
        assert_eq!((said.look(SECOND * 9), said.look(SECOND * 9)), (None, None));
        assert_eq!(said.look(Duration::from_millis(20)), Some(Say::Over(SECOND * 9)));
        assert_eq!(said.look(Duration::ZERO), None);
        assert_eq!(said.look(SECOND * 4), Some(Say::Stalled), "the next one is another");
    }

    #[test]
    fn what_is_known_is_said_and_what_is_not_is_left_out() {
        let bare = Stall { lasted: SECOND * 4, waiting: 12, place: None, transaction: None, last_error: String::new() };
        assert_eq!(bare.to_string(), "no result stored for 4.0 s, 12 wait");
        let seen = PartitionSeen { partition: 3, leader: Some(2), replicas: 3, in_sync: 1 };
        let place = |seen| Some(Place { topic: "results".to_owned(), partition: Some(3), seen });
        let full = Stall { place: place(Some(seen.clone())), last_error: "timed out".to_owned(), ..bare.clone() };
        assert_eq!(
            full.to_string(),
            "no result stored for 4.0 s, 12 wait, topic results partition 3 (leader 2, 1 of 3 replicas in sync), \
             last error: timed out"
        );
        let none = Stall { place: place(Some(PartitionSeen { leader: None, ..seen })), ..bare.clone() };
        assert!(none.to_string().ends_with("partition 3 (no leader, 1 of 3 replicas in sync)"), "{none}");
        let transaction = Stall { transaction: Some(("its offsets", SECOND * 2)), ..bare };
        assert!(transaction.to_string().ends_with("12 wait, a transaction waits for its offsets since 2.0 s"));
    }
}
