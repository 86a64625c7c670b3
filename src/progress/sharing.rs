//! Shares of what is in flight, with a made-up topic: no call is lost, none runs twice, none of one function and partition out
//! of order, and no function keeps another one out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::types::{FunctionName, NextOffset, Offset, Overflow, Position};

const SHARE: usize = 6;
const PARTITIONS: usize = 3;
const BYTES: usize = 10;

/// A topic, its reader, and what the calls came to.
struct World {
    table: Partitions,
    /// Functions of the messages, by partition; offsets have holes.
    log: [Vec<(i64, u8)>; PARTITIONS],
    /// The next place of each partition that is read.
    at: [usize; PARTITIONS],
    paused: BTreeSet<i32>,
    running: Vec<(Position, u8)>,
    taken: BTreeMap<(i32, i64), u32>,
    refused: BTreeSet<(i32, i64)>,
    last: BTreeMap<(i32, u8), i64>,
}

fn claim(function: u8) -> Claim {
    let overflow =
        [Overflow::Pause, Overflow::Pause, Overflow::Reject, Overflow::DeadLetter][usize::from(function % 4)];
    Claim {
        function: FunctionName::new(&format!("f{function}")).unwrap(),
        tenant: None,
        overflow,
        several_functions: true,
        several_tenants: false,
    }
}

fn waits(function: u8) -> bool {
    claim(function).overflow == Overflow::Pause
}

impl World {
    fn new(log: [Vec<(i64, u8)>; PARTITIONS], aside_max: usize) -> Self {
        let share = Share { calls: SHARE, bytes: usize::MAX };
        let mut table = Partitions::with_bounds(ShareBounds { function: share, tenant: Share::WHOLE, aside_max });
        for partition in 0..PARTITIONS {
            let (_, fault) = table.take_over(partition as i32, Some(NextOffset(0)), "");
            assert_eq!(fault, None);
        }
        Self {
            table,
            log,
            at: [0; PARTITIONS],
            paused: BTreeSet::new(),
            running: Vec::new(),
            taken: BTreeMap::new(),
            refused: BTreeSet::new(),
            last: BTreeMap::new(),
        }
    }

    fn poll(&mut self, partition: i32) {
        let slot = partition as usize;
        if self.table.is_crowded() || self.paused.contains(&partition) {
            return;
        }
        let Some(&(offset, function)) = self.log[slot].get(self.at[slot]) else { return };
        self.at[slot] += 1;
        let Verdict::New(position) = self.table.received(partition, Offset(offset), BYTES) else { return };
        let place = (partition, offset);
        match self.table.admit(position, BYTES, &claim(function)) {
            Admission::Aside => {}
            Admission::Taken => {
                *self.taken.entry(place).or_default() += 1;
                if waits(function) {
                    let last = self.last.insert((partition, function), offset);
                    assert!(last < Some(offset), "{place:?} of f{function} comes after {last:?}");
                }
                self.running.push((position, function));
            }
            Admission::Refused => {
                assert!(self.refused.insert(place) && !waits(function), "{place:?}");
                self.running.push((position, u8::MAX));
            }
        }
    }

    fn end(&mut self, pick: usize) {
        if !self.running.is_empty() {
            let (position, _) = self.running.remove(pick % self.running.len());
            assert_eq!(self.table.completed(position, BYTES), Completion::Counted);
        }
    }

    /// What the poll thread does in each of its rounds.
    fn regulate(&mut self) {
        let (pause, resume) = self.table.regulate(|_| false);
        self.paused.extend(pause);
        resume.iter().for_each(|partition| assert!(self.paused.remove(partition)));
        for (partition, next) in self.table.moves() {
            let slot = partition as usize;
            self.at[slot] = self.log[slot].partition_point(|(offset, _)| *offset < next.0);
            assert!(self.table.moved(partition, next), "partition {partition} goes to {next:?} again and again");
        }
    }

    fn check(&self) {
        assert_eq!(self.table.in_flight(), self.running.len());
        assert_eq!(self.table.bytes(), self.running.len() * BYTES);
        for function in 0..4 {
            let holds = self.running.iter().filter(|(_, of)| *of == function).count();
            assert!(holds <= SHARE, "f{function} holds {holds}");
        }
        assert!(self.taken.values().all(|times| *times == 1), "a call runs twice");
    }

    fn is_read(&self) -> bool {
        (0..PARTITIONS).all(|slot| self.at[slot] == self.log[slot].len())
    }
}

fn log() -> impl Strategy<Value = Vec<(i64, u8)>> {
    prop::collection::vec((1_i64..3, prop::sample::select(vec![0_u8, 0, 0, 0, 1, 2, 3])), 0..80).prop_map(|steps| {
        let mut offset = 0;
        steps
            .into_iter()
            .map(|(step, function)| {
                offset += step;
                (offset, function)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_call_runs_once_in_its_order_and_within_its_share(
        logs in [log(), log(), log()],
        aside_max in 1_usize..60,
        steps in prop::collection::vec((0_u8..8, any::<prop::sample::Index>()), 0..400),
    ) {
        let mut world = World::new(logs, aside_max);
        for (what, pick) in steps {
            match what {
                0..=4 => world.poll(pick.index(PARTITIONS) as i32),
                5 => world.end(pick.index(100)),
                6 => world.table.spill(),
                _ => world.regulate(),
            }
            world.check();
        }
        // Then everything is worked off.
        for round in 0.. {
            prop_assert!(round < 10_000, "it never ends");
            world.table.spill();
            world.end(0);
            world.regulate();
            for partition in 0..PARTITIONS as i32 {
                world.poll(partition);
            }
            world.check();
            if world.is_read() && world.running.is_empty() && world.table.aside() == 0 {
                break;
            }
        }
        let all: usize = world.log.iter().map(Vec::len).sum();
        prop_assert_eq!(world.taken.len() + world.refused.len(), all);
        prop_assert_eq!(world.table.over(9), []);
        for (partition, log) in world.log.iter().enumerate() {
            let end = log.last().map_or(0, |(offset, _)| offset + 1);
            prop_assert_eq!(world.table.tracker(partition as i32).unwrap().watermark(), Some(NextOffset(end)));
        }
    }

    /// A partition that goes away takes all that it held off the accounts, and comes again from its watermark.
    #[test]
    fn nothing_stays_on_an_account_when_its_partition_goes(
        logs in [log(), log(), log()],
        steps in prop::collection::vec((0_u8..7, any::<prop::sample::Index>()), 0..300),
    ) {
        let mut world = World::new(logs, 40);
        for (what, pick) in steps {
            match what {
                0..=4 => world.poll(pick.index(PARTITIONS) as i32),
                5 => world.table.spill(),
                _ => world.end(pick.index(100)),
            }
        }
        let aside: usize = (0..PARTITIONS as i32).map(|partition| world.table.given_back_of(partition)).sum();
        prop_assert_eq!(aside, world.table.aside());
        for partition in 0..PARTITIONS as i32 {
            world.table.forget(partition);
            world.running.retain(|(position, _)| position.partition != partition);
            prop_assert_eq!(world.table.in_flight(), world.running.len());
        }
        prop_assert_eq!((world.table.aside(), world.table.bytes(), world.table.over(9)), (0, 0, vec![]));
        prop_assert!(!world.table.is_crowded());
    }
}

/// One function fills its share in one partition, and the calls behind it of another one run all the same.
#[test]
fn a_function_at_its_share_keeps_no_other_out() {
    let mut log: Vec<(i64, u8)> = (0..2_000).map(|offset| (offset, 0)).collect();
    log.extend((2_000..2_010).map(|offset| (offset, 1)));
    let mut world = World::new([log, Vec::new(), Vec::new()], 10_000);
    for _ in 0..2_100 {
        world.poll(0);
        world.regulate();
        world.table.spill();
    }
    let ran = |world: &World, function: u8| {
        world.taken.keys().filter(|(_, at)| world.log[0][*at as usize].1 == function).count()
    };
    // All of its share is the other one's too: 6 of its 10 calls run, and nothing of it ends here.
    assert_eq!((ran(&world, 0), ran(&world, 1)), (SHARE, SHARE));
    assert_eq!(world.table.aside(), 2_010 - 2 * SHARE);
    let [Holding { holder, held, aside }, _] = &world.table.over(9)[..] else { panic!("two are over") };
    assert_eq!(*holder, Holder::Function(claim(0).function));
    assert_eq!((held.calls, *aside), (SHARE, 2_000 - SHARE));
    let committed = world.table.commits(None);
    assert!(committed.is_empty(), "nothing is done, and nothing is passed: {committed:?}");
}

#[test]
fn a_message_that_is_not_there_any_more_is_sought_a_few_times_and_then_given_up() {
    let mut world = World::new([(0..20).map(|offset| (offset, 0)).collect(), Vec::new(), Vec::new()], 100);
    for _ in 0..40 {
        world.poll(0);
        world.table.spill();
    }
    assert_eq!((world.running.len(), world.table.aside()), (SHARE, 20 - SHARE));
    while !world.running.is_empty() {
        world.end(0);
    }
    // The topic keeps no message that long.
    let lowest = NextOffset(SHARE as i64);
    let mut times = 0;
    loop {
        assert_eq!(world.table.moves(), [(0, lowest)]);
        times += 1;
        if !world.table.moved(0, lowest) {
            break;
        }
        assert_eq!(world.table.received(0, Offset(19 + times), BYTES), Verdict::New(position(19 + times, &world)));
    }
    assert_eq!(times, 4);
}

fn position(offset: i64, world: &World) -> Position {
    let generation = world.table.tracker(0).unwrap().generation();
    Position { partition: 0, offset: Offset(offset), generation }
}

/// What a function holds goes with it to another tenant, and the share of a tenant binds all its functions together.
#[test]
fn a_tenant_holds_what_its_functions_hold() {
    let share = Share { calls: 4, bytes: 1_000 };
    let bounds = ShareBounds { function: Share::WHOLE, tenant: share, aside_max: 100 };
    let mut table = Partitions::with_bounds(bounds);
    let _ = table.take_over(0, Some(NextOffset(0)), "");
    let mut offset = 0;
    let mut call = |table: &mut Partitions, function: u8, tenant: Option<&str>| {
        let claim = Claim {
            tenant: tenant.map(Into::into),
            overflow: Overflow::Reject,
            several_tenants: true,
            ..claim(function)
        };
        let Verdict::New(position) = table.received(0, Offset(offset), BYTES) else { panic!("new") };
        offset += 1;
        (table.admit(position, BYTES, &claim), position)
    };
    for function in [0, 1, 0, 1] {
        assert_eq!(call(&mut table, function, Some("acme")).0, Admission::Taken);
    }
    assert_eq!(call(&mut table, 2, Some("acme")).0, Admission::Refused);
    let (admission, nobodys) = call(&mut table, 3, None);
    assert_eq!(admission, Admission::Taken);
    let [Holding { holder, held, .. }] = &table.over(9)[..] else { panic!("one is over") };
    assert_eq!((holder, held.calls), (&Holder::Tenant(Some("acme".into())), 4));
    // f1 is another tenant's from now on, with all that it holds.
    assert_eq!(call(&mut table, 1, Some("other")).0, Admission::Taken);
    assert_eq!(call(&mut table, 0, Some("acme")).0, Admission::Taken);
    assert_eq!(table.completed(nobodys, BYTES), Completion::Counted);
}
