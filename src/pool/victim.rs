//! Whom to take a ready instance from when there is no room for another.
//!
//! Must not: take from a function anything but a ready instance; one that runs a call or is being prepared stays.

use std::cmp::Reverse;

use crate::types::{FunctionName, Timestamp};

/// A function that may have an instance to give.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Which.
    pub function: &'a FunctionName,
    /// Its ready instances.
    pub ready: u32,
    /// Its warm target.
    pub target_ready: u32,
    /// What of the target was promised: its floor, its schedules, the live notices of pre-triggers.
    pub promised: u32,
    /// Since when the one that would go, the longest idle, is idle.
    pub idle_since: Timestamp,
    /// Bytes of one instance of it.
    pub instance_bytes: u64,
}

/// What the room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A call that waits. It is certain, and history only likely, so it may take from another what history alone wants.
    Call,
    /// The function's own warm target. It takes only what stands above another's target: otherwise two functions whose
    /// targets do not fit together would drop each other's instances for ever.
    Warmth,
}

/// Chooses the function that gives up its longest idle instance so that `needs` may have one; None where nobody can.
///
/// First the one with the most ready instances above its target; between equals, and where none is above and the purpose
/// is a call, the longest idle; then the largest instance, then the lowest name, so that the choice is the same each time.
/// Never one without ready instances, never one that has no more than what was promised (a floor, a schedule, a live notice:
/// whoever asked for those must get them, whatever others do), and never `needs` itself: an instance that it has ready serves
/// it as it is.
///
/// Where bytes are short and one instance does not free enough, release it and ask again.
pub fn victim<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    needs: &FunctionName,
    purpose: Purpose,
) -> Option<&'a FunctionName> {
    let above = |candidate: &Candidate<'_>| candidate.ready.saturating_sub(candidate.target_ready);
    candidates
        .filter(|candidate| candidate.ready > candidate.promised && candidate.function != needs)
        .filter(|candidate| purpose == Purpose::Call || above(candidate) > 0)
        .min_by_key(|candidate| {
            (Reverse(above(candidate)), candidate.idle_since, Reverse(candidate.instance_bytes), candidate.function)
        })
        .map(|candidate| candidate.function)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> [FunctionName; 3] {
        ["a", "b", "c"].map(|name| FunctionName::new(name).unwrap())
    }

    /// (index into names, ready, target, idle since in ms, bytes)
    fn choose(rows: &[(usize, u32, u32, i64, u64)], purpose: Purpose) -> Option<String> {
        let names = names();
        let needs = FunctionName::new("needs").unwrap();
        let candidates = rows.iter().map(|&(function, ready, target_ready, idle_ms, instance_bytes)| Candidate {
            function: &names[function],
            ready,
            target_ready,
            promised: 0,
            idle_since: Timestamp::from_millis(idle_ms),
            instance_bytes,
        });
        victim(candidates, &needs, purpose).map(|function| function.as_str().to_owned())
    }

    #[test]
    fn the_most_above_its_target_gives_first() {
        let rows = [(0, 9, 8, 1, 1), (1, 4, 1, 50, 1), (2, 3, 1, 0, 1)];
        for purpose in [Purpose::Call, Purpose::Warmth] {
            assert_eq!(choose(&rows, purpose).as_deref(), Some("b"));
        }
    }

    #[test]
    fn equals_are_told_apart_by_idleness_then_size_then_name() {
        assert_eq!(choose(&[(0, 2, 1, 7, 1), (1, 3, 2, 5, 1)], Purpose::Warmth).as_deref(), Some("b"));
        assert_eq!(choose(&[(0, 2, 1, 5, 1), (1, 3, 2, 5, 9)], Purpose::Warmth).as_deref(), Some("b"));
        assert_eq!(choose(&[(1, 2, 1, 5, 9), (0, 3, 2, 5, 9)], Purpose::Warmth).as_deref(), Some("a"));
    }

    #[test]
    fn only_a_call_takes_below_a_target() {
        let rows = [(0, 1, 2, 9, 1), (1, 2, 2, 3, 1), (2, 0, 0, 0, 1)];
        assert_eq!(choose(&rows, Purpose::Warmth), None);
        assert_eq!(choose(&rows, Purpose::Call).as_deref(), Some("b"));
    }

    #[test]
    fn none_without_ready_instances_and_never_the_one_in_need() {
        assert_eq!(choose(&[], Purpose::Call), None);
        assert_eq!(choose(&[(0, 0, 0, 0, 1)], Purpose::Call), None);
        let names = names();
        let itself = Candidate {
            function: &names[0],
            ready: 5,
            target_ready: 0,
            promised: 0,
            idle_since: Timestamp::ZERO,
            instance_bytes: 1,
        };
        assert_eq!(victim(std::iter::once(itself), &names[0], Purpose::Call), None);
        assert_eq!(victim(std::iter::once(itself), &names[1], Purpose::Call), Some(&names[0]));
    }

    #[test]
    fn nobody_takes_what_was_promised() {
        let names = names();
        let candidate = |ready, promised| Candidate {
            function: &names[0],
            ready,
            target_ready: 8,
            promised,
            idle_since: Timestamp::ZERO,
            instance_bytes: 1,
        };
        for (ready, promised, gives) in [(2, 2, false), (1, 2, false), (3, 2, true), (8, 0, true), (0, 0, false)] {
            let chosen = victim(std::iter::once(candidate(ready, promised)), &names[1], Purpose::Call);
            assert_eq!(chosen.is_some(), gives, "{ready} ready, {promised} promised");
        }
    }
}
