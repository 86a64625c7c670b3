//! Who holds how much of what is in flight: functions, and tenants over all of theirs. At its share one holder takes no more,
//! so that it cannot keep others out.
//!
//! Duty: the sums, and what becomes of a call whose function or tenant holds its share. Must not: know what a call says, or keep
//! one. It is bounded by what is in flight and put aside: a holder of nothing is forgotten.
//!
//! A holder that reaches its share is `Full` at first: for a moment the caller takes nothing of anybody, as most holders are
//! below it again within that moment, and putting calls aside costs that they are read twice. One that stays is `Over`: its
//! further calls are put aside until it holds half its share, and those of others go on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{FunctionName, Overflow};

/// Calls and bytes of their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Calls.
    pub calls: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Share {
    /// No bound at all.
    pub const WHOLE: Self = Self { calls: usize::MAX, bytes: usize::MAX };

    /// `part`, 0.0 to 1.0, of these; at least 1 of each. The whole is no bound: what all may hold together is one already.
    pub fn part(calls: usize, bytes: usize, part: f64) -> Self {
        if part >= 1.0 {
            return Self::WHOLE;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a bound need not be exact"
        )]
        let of = |all: usize| ((all as f64 * part) as usize).max(1);
        Self { calls: of(calls), bytes: of(bytes) }
    }
}

/// What one holder may hold at most; the call that reaches a bound is still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareBounds {
    /// One function.
    pub function: Share,
    /// All functions of one tenant; those without a tenant count as one.
    pub tenant: Share,
    /// Calls that are put aside, of all holders together.
    pub aside_max: usize,
}

impl Default for ShareBounds {
    fn default() -> Self {
        Self { function: Share::WHOLE, tenant: Share::WHOLE, aside_max: usize::MAX }
    }
}

/// On whose account a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The function.
    pub function: FunctionName,
    /// Whose function it is; None for all that are nobody's.
    pub tenant: Option<Arc<str>>,
    /// What becomes of the call where its function or tenant holds its share.
    pub overflow: Overflow,
    /// Whether there is another function, which a share is kept for.
    pub several_functions: bool,
    /// Whether there is another tenant.
    pub several_tenants: bool,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a call that is not taken must not run"]
pub enum Admission {
    /// It runs.
    Taken,
    /// It stays on its topic for now: it is in flight as a number alone, and comes again.
    Aside,
    /// It is answered without running.
    Refused,
}

/// Who holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// One function.
    Function(FunctionName),
    /// One tenant, or all functions without.
    Tenant(Option<Arc<str>>),
}

/// A holder that is over its share, for those who say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub holder: Holder,
    /// What it holds.
    pub held: Share,
    /// Its calls that are put aside.
    pub aside: usize,
}

/// The place of a function's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AccountId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Full,
    Over,
}

#[derive(Debug)]
struct Account {
    holder: Holder,
    calls: usize,
    bytes: usize,
    aside: usize,
    state: State,
    /// Of a function: its tenant's.
    tenant: Option<AccountId>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Shares {
    bounds: ShareBounds,
    index: HashMap<Holder, AccountId>,
    accounts: Vec<Option<Account>>,
    vacant: Vec<AccountId>,
    full: usize,
    over: usize,
}

impl Shares {
    pub(super) fn new(bounds: ShareBounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    pub(super) fn bounds(&self) -> &ShareBounds {
        &self.bounds
    }

    /// Whether somebody has just reached its share, so that nothing should be taken for a moment.
    pub(super) fn is_full(&self) -> bool {
        self.full > 0
    }

    /// That moment is over: who is still full has its further calls put aside.
    pub(super) fn spill(&mut self) {
        for account in self.accounts.iter_mut().flatten().filter(|account| account.state == State::Full) {
            account.state = State::Over;
            self.over += 1;
        }
        self.full = 0;
    }

    /// Those over their shares, at most `limit`.
    pub(super) fn over(&self, limit: usize) -> Vec<Holding> {
        if self.over == 0 {
            return Vec::new();
        }
        let over = self.accounts.iter().flatten().filter(|account| account.state == State::Over);
        over.take(limit)
            .map(|account| Holding {
                holder: account.holder.clone(),
                held: Share { calls: account.calls, bytes: account.bytes },
                aside: account.aside,
            })
            .collect()
    }

    /// Whether calls of this account that were put aside may come again.
    pub(super) fn has_room(&self, id: AccountId) -> bool {
        let is_over = |id: AccountId| self.get(id).is_some_and(|account| account.state == State::Over);
        !is_over(id) && !self.get(id).and_then(|account| account.tenant).is_some_and(is_over)
    }

    /// The account of a call's function, under the tenant that the function has now.
    pub(super) fn account(&mut self, claim: &Claim) -> AccountId {
        let id = self.find_or_open(Holder::Function(claim.function.clone()));
        let is_settled = self.get(id).and_then(|account| account.tenant).is_some_and(|tenant| {
            matches!(self.get(tenant), Some(Account { holder: Holder::Tenant(name), .. }) if *name == claim.tenant)
        });
        if !is_settled {
            self.settle(id, claim.tenant.clone());
        }
        id
    }

    /// Moves what a function holds to the account of another tenant.
    fn settle(&mut self, id: AccountId, tenant: Option<Arc<str>>) {
        let new = self.find_or_open(Holder::Tenant(tenant));
        let Some(account) = self.get_mut(id) else { return };
        let (calls, bytes, aside) = (account.calls, account.bytes, account.aside);
        let old = account.tenant.replace(new);
        if let Some(account) = self.get_mut(new) {
            account.calls += calls;
            account.bytes += bytes;
            account.aside += aside;
        }
        if let Some(old) = old {
            self.change(old, self.bounds.tenant, |account| {
                account.calls -= calls;
                account.bytes -= bytes;
                account.aside -= aside;
            });
        }
    }

    /// Takes a call on its function's account, where there is room. One that is `behind` others of its function, which were put
    /// aside, goes aside as well where it is to wait: calls of one partition keep their order.
    pub(super) fn admit(&mut self, id: AccountId, claim: &Claim, bytes: usize, behind: bool) -> Admission {
        let tenant = self.get(id).and_then(|account| account.tenant);
        let function = claim.several_functions.then_some((id, self.bounds.function));
        let tenant = tenant.filter(|_| claim.several_tenants).map(|tenant| (tenant, self.bounds.tenant));
        let bounded = [function, tenant];
        let waits = claim.overflow == Overflow::Pause;
        let is_over = |id: AccountId| self.get(id).is_some_and(|account| account.state == State::Over);
        let is_at = |(id, share): (AccountId, Share)| self.get(id).is_some_and(|account| account.is_at(share));
        let stops = |bound: &(AccountId, Share)| if waits { is_over(bound.0) } else { is_at(*bound) };
        if bounded.iter().flatten().any(stops) || (waits && behind) {
            if waits {
                self.each(id, |account| account.aside += 1);
                return Admission::Aside;
            }
            bounded.iter().flatten().for_each(|&(id, share)| self.reached(id, share, waits));
            self.forget_if_idle(id);
            return Admission::Refused;
        }
        self.each(id, |account| {
            account.calls += 1;
            account.bytes += bytes;
        });
        bounded.iter().flatten().for_each(|&(id, share)| self.reached(id, share, waits));
        Admission::Taken
    }

    /// A call that was taken is done, or another node's.
    pub(super) fn leave(&mut self, id: AccountId, bytes: usize) {
        self.change_both(id, |account| {
            account.calls -= 1;
            account.bytes -= bytes;
        });
    }

    /// A call that was put aside comes again, or is another node's.
    pub(super) fn back(&mut self, id: AccountId) {
        self.change_both(id, |account| account.aside -= 1);
    }

    fn reached(&mut self, id: AccountId, share: Share, waits: bool) {
        let Some(account) = self.get_mut(id).filter(|account| account.state == State::Open && account.is_at(share))
        else {
            return;
        };
        // One of which calls are aside has been slow already.
        let over = !waits || account.aside > 0;
        account.state = if over { State::Over } else { State::Full };
        *(if over { &mut self.over } else { &mut self.full }) += 1;
    }

    fn each(&mut self, id: AccountId, mut change: impl FnMut(&mut Account)) {
        let tenant = self.get(id).and_then(|account| account.tenant);
        for id in std::iter::once(id).chain(tenant) {
            if let Some(account) = self.get_mut(id) {
                change(account);
            }
        }
    }

    fn change_both(&mut self, id: AccountId, change: impl Fn(&mut Account)) {
        let tenant = self.get(id).and_then(|account| account.tenant);
        self.change(id, self.bounds.function, &change);
        if let Some(tenant) = tenant {
            self.change(tenant, self.bounds.tenant, &change);
        }
    }

    /// Lowers what an account holds, and opens it again where that is little enough.
    fn change(&mut self, id: AccountId, share: Share, change: impl FnOnce(&mut Account)) {
        let Some(account) = self.get_mut(id) else { return };
        change(account);
        let opens = match account.state {
            State::Open => false,
            State::Full => account.is_below(share, 4, 5),
            State::Over => account.is_below(share, 1, 2),
        };
        if opens {
            let was = std::mem::replace(&mut account.state, State::Open);
            *(if was == State::Over { &mut self.over } else { &mut self.full }) -= 1;
        }
        self.forget_if_idle(id);
    }

    fn find_or_open(&mut self, holder: Holder) -> AccountId {
        if let Some(&id) = self.index.get(&holder) {
            return id;
        }
        let account =
            Account { holder: holder.clone(), calls: 0, bytes: 0, aside: 0, state: State::Open, tenant: None };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.accounts.push(None);
            // Bounded by what is in flight and put aside, which is far below.
            AccountId(u32::try_from(self.accounts.len() - 1).unwrap_or(u32::MAX))
        });
        self.accounts[id.0 as usize] = Some(account);
        self.index.insert(holder, id);
        id
    }

    fn forget_if_idle(&mut self, id: AccountId) {
        if self.get(id).is_some_and(Account::is_idle)
            && let Some(account) = self.accounts[id.0 as usize].take()
        {
            self.index.remove(&account.holder);
            self.vacant.push(id);
            match account.state {
                State::Open => {}
                State::Full => self.full -= 1,
                State::Over => self.over -= 1,
            }
            if let Some(tenant) = account.tenant {
                self.forget_if_idle(tenant);
            }
        }
    }

    fn get(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.accounts.get_mut(id.0 as usize)?.as_mut()
    }
}

impl Account {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.aside == 0
    }

    fn is_at(&self, share: Share) -> bool {
        self.calls >= share.calls || self.bytes >= share.bytes
    }

    /// Whether it holds less than `part` of `whole` parts of its share, in calls and in bytes.
    fn is_below(&self, share: Share, part: usize, whole: usize) -> bool {
        let below = |now: usize, max: usize| now.saturating_mul(whole) < max.saturating_mul(part);
        below(self.calls, share.calls) && below(self.bytes, share.bytes)
    }
}
