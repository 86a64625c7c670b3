//! Messages of one partition that were put aside: by their offsets alone, in the order in which they are to come again.
//!
//! Must not: judge who has room; `shares` does.

use std::collections::{BTreeMap, BTreeSet};

use super::shares::AccountId;
use crate::types::{NextOffset, Offset};

/// Times that the consumer goes back to one offset in vain before the message there counts as gone.
const IN_VAIN_MAX: u32 = 3;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// By account; none is empty.
    offsets: BTreeMap<AccountId, BTreeSet<i64>>,
    len: usize,
    /// Where the consumer went back to last, and how often in a row.
    sought: Option<(i64, u32)>,
}

impl Aside {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn put(&mut self, account: AccountId, offset: Offset) {
        self.len += usize::from(self.offsets.entry(account).or_default().insert(offset.0));
    }

    /// The message came again.
    pub(super) fn take(&mut self, account: AccountId, offset: Offset) {
        if self.sought.is_some_and(|(sought, _)| sought == offset.0) {
            self.sought = None;
        }
        let Some(offsets) = self.offsets.get_mut(&account) else { return };
        self.len -= usize::from(offsets.remove(&offset.0));
        if offsets.is_empty() {
            self.offsets.remove(&account);
        }
    }

    /// Whether a message of this account that stands before `offset` is here.
    pub(super) fn is_behind(&self, account: AccountId, offset: Offset) -> bool {
        let first = self.offsets.get(&account).and_then(BTreeSet::first);
        first.is_some_and(|first| *first < offset.0)
    }

    /// The lowest offset of those accounts that have room.
    pub(super) fn lowest(&self, has_room: impl Fn(AccountId) -> bool) -> Option<Offset> {
        let with_room = self.offsets.iter().filter(|(account, _)| has_room(**account));
        with_room.filter_map(|(_, offsets)| offsets.first().copied()).min().map(Offset)
    }

    /// The consumer goes back to an offset. False where it did so before, and nothing came of it.
    pub(super) fn sought(&mut self, next: NextOffset) -> bool {
        let times = match self.sought {
            Some((sought, times)) if sought == next.0 => times + 1,
            _ => 1,
        };
        self.sought = Some((next.0, times));
        times <= IN_VAIN_MAX
    }
}
