//! Who announces: what is known of each source, alone and for each function, and what it may hold.
//!
//! Trust is learned on two levels. What a source's notices for one function brought is the evidence; where there is
//! little of it, what its notices for all functions brought stands in as the prior; before anything is known, what the
//! sender says of itself. A source is known by its name within its tenant.
//!
//! **Budgets.** A source holds at most a share of the table of notices, and its notices together ask for at most so much
//! instance time. That starts at the configured budget and grows by as much again for each of its recent notices whose
//! calls came (in the end 34-fold). A tenant has the same bounds over all its sources. A notice asks for no more
//! instances than are left of it, and is refused where none is, so a flood takes nothing from others. Sources that name no
//! tenant are one tenant's together.
//!
//! **Bounds.** Rows for sources, tenants and pairs of source and function by configuration; what is forgotten to make
//! room is counted, and as `bounded` says that is what is least known.
//!
//! Must not: know notices one by one, or read a clock.

mod beliefs;
mod bounded;
mod lags;
mod saved;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::beliefs::{Chances, MEMORY_NOTICES, Shares, mean, prior, remaining};
use self::bounded::Bounded;
pub(super) use self::bounded::Place;
use self::lags::Lags;
pub(super) use self::lags::next_edge;
pub(super) use self::saved::{Index, Saved};
use super::verdict::Criterion;
use crate::config::ForecastConfig;
use crate::types::YIELD_STEPS;

/// A source's trust must move by this much before the functions that it announces to are looked at anew.
const NEWS: f32 = 1.0 / 16.0;
/// What [`Pair::at_once`] falls by with each notice that was less crowded.
const AT_ONCE_FADE: f32 = 0.9;

/// What one notice brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    pub(super) announced: u32,
    pub(super) confidence: f32,
    /// Calls that came, had its source been the only one.
    pub(super) came_alone: u32,
    /// Calls that were taken off it.
    pub(super) came: u32,
    /// Whether it stood behind another notice.
    pub(super) behind: bool,
    /// The largest part of the announced calls that was in flight at once, of those that came; `None` where none did.
    pub(super) at_once: Option<f32>,
    /// How much of it was to be seen, 0.0 to 1.0.
    pub(super) weight: f32,
}

/// Where a live notice stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) announced: u32,
    pub(super) confidence: f32,
    pub(super) came: u32,
    pub(super) behind: bool,
    /// Since its start.
    pub(super) elapsed: Duration,
    /// From its start to its end.
    pub(super) window: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beliefs {
    alone: Shares,
    behind: Shares,
    /// Σ confidence × weight of what `alone` has counted.
    confidence: f32,
}

impl Beliefs {
    fn count(&mut self, evidence: &Evidence) {
        let &Evidence { announced, confidence, came_alone, came, behind, weight, .. } = evidence;
        self.alone.count(came_alone, announced, weight);
        self.confidence = self.confidence * (1.0 - weight / MEMORY_NOTICES) + confidence * weight;
        if behind {
            self.behind.count(came, announced, weight);
        }
    }

    /// What part of the evidence holds for a notice with this confidence.
    fn discount(&self, confidence: f32) -> f32 {
        let usual = self.confidence / self.alone.weight();
        // Nothing counted yet makes this no number.
        if confidence < usual { confidence / usual } else { 1.0 }
    }

    fn differs(&self, other: &Self) -> bool {
        let moved = |a: &Shares, b: &Shares| {
            let mean = |shares: &Shares| mean(&shares.chances(&prior(1.0), 1.0));
            (mean(a) - mean(b)).abs() >= NEWS
        };
        moved(&self.alone, &other.alone) || moved(&self.behind, &other.behind)
    }
}

/// What somebody holds, and has earned.
#[derive(Debug, Default)]
struct Account {
    notices: u32,
    /// Instance time that the notices ask for, in µs.
    committed: u64,
    /// Recent notices whose calls came, parts of notices as parts.
    hits: f32,
}

impl Account {
    fn learn(&mut self, evidence: &Evidence) {
        let share = evidence.came as f32 / evidence.announced.max(1) as f32;
        self.hits = self.hits * (1.0 - evidence.weight / MEMORY_NOTICES) + share * evidence.weight;
    }

    /// What is left of `base` and what was earned, once `freed` is given back.
    fn left(&self, base: u64, freed: u64) -> u64 {
        let allowed = base.saturating_add((base as f64 * f64::from(self.hits)) as u64);
        allowed.saturating_sub(self.committed - freed)
    }
}

#[derive(Debug, Default)]
struct Tenant {
    name: Box<str>,
    account: Account,
    /// Its sources that hold a notice.
    sources: u32,
}

#[derive(Debug)]
struct Source {
    name: Box<str>,
    /// Its place is used again after it was forgotten; this number is not.
    serial: u64,
    tenant: Option<Place>,
    account: Account,
    learned: Beliefs,
    /// What was learned when it was news last; this is what forecasts are made from, so that a function's forecast
    /// changes only when the function is looked at.
    told: Beliefs,
    is_news: bool,
}

/// One source and one function.
#[derive(Debug)]
struct Pair {
    /// Where the source was when the pair was met: still there if it has the serial number of the pair's key.
    source: Place,
    beliefs: Beliefs,
    lags: Lags,
    /// What part of the calls that come is in flight at once: a maximum that fades.
    at_once: f32,
}

/// Everything that is known of those who announce.
#[derive(Debug)]
pub(super) struct Sources {
    notices_source_max: u32,
    notices_tenant_max: u32,
    sources_tenant_max: u32,
    source_budget_micros: u64,
    tenant_budget_micros: u64,
    sources: Bounded<Box<[u8]>, Source>,
    tenants: Bounded<Box<str>, Tenant>,
    /// Whose the sources are that name no tenant.
    nobody: Tenant,
    /// By the serial numbers of source and function.
    pairs: Bounded<(u64, u64), Pair>,
    /// Sources met so far.
    serial: u64,
    news: Vec<Place>,
    notices: usize,
    forgotten: u64,
    /// For look-ups without an allocation.
    key: Vec<u8>,
}

/// At least 1: a share must not shut everybody out.
pub(super) fn share_of(max: u32, share: f64) -> u32 {
    ((f64::from(max) * share) as u32).max(1)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Sources {
    pub(super) fn new(config: &ForecastConfig) -> Self {
        let ForecastConfig { notices_max, sources_max, notices_source_share_max, notices_tenant_share_max, .. } =
            *config;
        Self {
            notices_source_max: share_of(notices_max.get(), notices_source_share_max),
            notices_tenant_max: share_of(notices_max.get(), notices_tenant_share_max),
            sources_tenant_max: share_of(sources_max.get(), notices_tenant_share_max),
            source_budget_micros: micros(config.source_budget),
            tenant_budget_micros: micros(config.tenant_budget),
            sources: Bounded::new(sources_max.get()),
            tenants: Bounded::new(sources_max.get()),
            nobody: Tenant::default(),
            pairs: Bounded::new(config.source_functions_max.get()),
            serial: 0,
            news: Vec::new(),
            notices: 0,
            forgotten: 0,
            key: Vec::new(),
        }
    }

    /// Notices held over all sources.
    pub(super) fn notices(&self) -> usize {
        self.notices
    }

    /// Sources, tenants and pairs that were forgotten to make room.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The source, if it is known. Names are at most 256 bytes long.
    pub(super) fn find(&mut self, tenant: Option<&str>, name: &str) -> Option<Place> {
        self.key.clear();
        // The tenant's length before it keeps apart what would read the same; no tenant has this length.
        let length = tenant.map_or(u16::MAX, |tenant| tenant.len() as u16);
        self.key.extend_from_slice(&length.to_le_bytes());
        self.key.extend_from_slice(tenant.unwrap_or_default().as_bytes());
        self.key.extend_from_slice(name.as_bytes());
        self.sources.find(self.key.as_slice())
    }

    /// The source, from now on known; `None` where all that are known hold notices.
    pub(super) fn meet(&mut self, tenant: Option<&str>, name: &str) -> Option<Place> {
        if let Some(place) = self.find(tenant, name) {
            return Some(place);
        }
        let tenant = match tenant {
            Some(tenant) => Some(self.meet_tenant(tenant)?),
            None => None,
        };
        self.serial += 1;
        let source = Source {
            name: name.into(),
            serial: self.serial,
            tenant,
            account: Account::default(),
            learned: Beliefs::default(),
            told: Beliefs::default(),
            is_news: false,
        };
        let (place, forgotten) = self.sources.insert(self.key.as_slice().into(), source)?;
        if let Some(tenant) = tenant {
            self.tenants.pin(tenant);
        }
        if let Some(forgotten) = forgotten {
            self.forgotten += 1;
            if let Some(tenant) = forgotten.tenant {
                self.tenants.unpin(tenant);
            }
        }
        Some(place)
    }

    fn tenant(&self, place: Option<Place>) -> &Tenant {
        place.map_or(&self.nobody, |place| self.tenants.at(place))
    }

    fn tenant_mut(&mut self, place: Option<Place>) -> &mut Tenant {
        match place {
            Some(place) => self.tenants.at_mut(place),
            None => &mut self.nobody,
        }
    }

    fn meet_tenant(&mut self, name: &str) -> Option<Place> {
        if let Some(place) = self.tenants.find(name) {
            return Some(place);
        }
        let tenant = Tenant { name: name.into(), account: Account::default(), sources: 0 };
        let (place, forgotten) = self.tenants.insert(name.into(), tenant)?;
        self.forgotten += u64::from(forgotten.is_some());
        Some(place)
    }

    /// What is known of the source and the function; `None` where every pair is in use. Holds until another one is
    /// asked for, and longer where it is kept.
    pub(super) fn meet_pair(&mut self, source: Place, function: u64) -> Option<Place> {
        let key = (self.sources.at(source).serial, function);
        if let Some(place) = self.pairs.find(&key) {
            return Some(place);
        }
        let pair = Pair { source, beliefs: Beliefs::default(), lags: Lags::default(), at_once: 1.0 };
        let (place, forgotten) = self.pairs.insert(key, pair)?;
        self.forgotten += u64::from(forgotten.is_some());
        Some(place)
    }

    /// The pair is in use.
    pub(super) fn keep_pair(&mut self, pair: Place) {
        self.pairs.pin(pair);
    }

    /// The pair is not in use any more; it is remembered while there is room.
    pub(super) fn drop_pair(&mut self, pair: Place) {
        self.pairs.unpin(pair);
    }

    /// The source's name and its tenant's.
    pub(super) fn names(&self, source: Place) -> (&str, Option<&str>) {
        let source = self.sources.at(source);
        (&source.name, source.tenant.map(|tenant| &*self.tenants.at(tenant).name))
    }

    /// Whether the source may hold one more notice.
    pub(super) fn has_place(&self, source: Place) -> Result<(), Criterion> {
        let source = self.sources.at(source);
        if source.account.notices >= self.notices_source_max {
            return Err(Criterion::SourceOverShare);
        }
        let tenant = self.tenant(source.tenant);
        let one_more_source = source.account.notices == 0 && tenant.sources >= self.sources_tenant_max;
        if tenant.account.notices >= self.notices_tenant_max || one_more_source {
            return Err(Criterion::TenantOverShare);
        }
        Ok(())
    }

    /// How many instances the source may ask for, each for so many µs, once it has given back `freed` µs; at least 1.
    pub(super) fn affordable(&self, source: Place, freed: u64, each: u64) -> Result<u64, Criterion> {
        let source = self.sources.at(source);
        let by_source = source.account.left(self.source_budget_micros, freed) / each.max(1);
        let account = &self.tenant(source.tenant).account;
        match (by_source, account.left(self.tenant_budget_micros, freed) / each.max(1)) {
            (0, _) => Err(Criterion::SourceOverBudget),
            (_, 0) => Err(Criterion::TenantOverBudget),
            (by_source, by_tenant) => Ok(by_source.min(by_tenant)),
        }
    }

    /// The source holds one notice more.
    pub(super) fn hold(&mut self, source: Place) {
        self.notices += 1;
        self.sources.pin(source);
        let account = &mut self.sources.at_mut(source).account;
        account.notices += 1;
        let is_first = account.notices == 1;
        let tenant = self.tenant_mut(self.sources.at(source).tenant);
        tenant.account.notices += 1;
        tenant.sources += u32::from(is_first);
    }

    /// The source holds one notice less.
    pub(super) fn release(&mut self, source: Place) {
        self.notices -= 1;
        self.sources.unpin(source);
        let account = &mut self.sources.at_mut(source).account;
        account.notices -= 1;
        let was_last = account.notices == 0;
        let tenant = self.tenant_mut(self.sources.at(source).tenant);
        tenant.account.notices -= 1;
        tenant.sources -= u32::from(was_last);
    }

    /// A notice of the source asks for `cost` µs of instance time instead of `freed`.
    pub(super) fn commit(&mut self, source: Place, freed: u64, cost: u64) {
        let source = self.sources.at_mut(source);
        source.account.committed = source.account.committed - freed + cost;
        let tenant = source.tenant;
        let account = &mut self.tenant_mut(tenant).account;
        account.committed = account.committed - freed + cost;
    }

    /// What the source's notices for the function bring alone, as a share of what they announce, 0.0 to 1.0.
    pub(super) fn trust(&self, source: Place, pair: Place, confidence: f32) -> f32 {
        mean(&self.alone(source, pair, confidence))
    }

    fn alone(&self, source: Place, pair: Place, confidence: f32) -> Chances {
        self.chances(source, pair, confidence, |beliefs| &beliefs.alone)
    }

    /// The function's own evidence, after that of the source's other functions, after what the sender says of itself.
    fn chances(&self, source: Place, pair: Place, confidence: f32, of: impl Fn(&Beliefs) -> &Shares) -> Chances {
        let (told, own) = (&self.sources.at(source).told, &self.pairs.at(pair).beliefs);
        let elsewhere = of(told).without(of(own)).chances(&prior(confidence), told.discount(confidence));
        of(own).chances(&elsewhere, own.discount(confidence))
    }

    /// How likely it is that at least `(i + 1) / YIELD_STEPS` of what is left of a notice still comes.
    pub(super) fn outlook(&self, source: Place, pair: Place, standing: &Standing) -> [f32; YIELD_STEPS] {
        let &Standing { announced, confidence, came, behind, elapsed, window } = standing;
        let survival = self.pairs.at(pair).lags.survival(elapsed, window);
        let mut likely = remaining(&self.alone(source, pair, confidence), came, announced, survival);
        if behind {
            let behind = self.chances(source, pair, confidence, |beliefs| &beliefs.behind);
            let behind = remaining(&behind, came, announced, survival);
            likely.iter_mut().zip(behind).for_each(|(likely, behind)| *likely = likely.min(behind));
        }
        likely
    }

    /// What part of a notice's calls comes this long after its start or later.
    pub(super) fn survival(&self, pair: Place, elapsed: Duration, window: Duration) -> f32 {
        self.pairs.at(pair).lags.survival(elapsed, window)
    }

    /// How long after a notice's start its calls begin to come.
    pub(super) fn earliest(&self, pair: Place) -> Duration {
        self.pairs.at(pair).lags.earliest()
    }

    /// What part of the calls that come is in flight at once, above 0.0 to 1.0.
    pub(super) fn at_once(&self, pair: Place) -> f32 {
        self.pairs.at(pair).at_once
    }

    /// A call came this long after the start of a notice that announced so many.
    pub(super) fn count_lag(&mut self, pair: Place, lag: Duration, announced: u32) {
        self.pairs.at_mut(pair).lags.count(lag, announced);
    }

    /// Learns from a notice that is over.
    pub(super) fn learn(&mut self, source: Place, pair: Place, evidence: &Evidence) {
        let row = self.pairs.at_mut(pair);
        row.beliefs.count(evidence);
        row.lags.fade(evidence.weight);
        if let Some(at_once) = evidence.at_once {
            row.at_once = at_once.max(row.at_once * AT_ONCE_FADE);
        }
        let known = row.beliefs.alone.weight();
        self.pairs.used(pair, known);
        let row = self.sources.at_mut(source);
        row.account.learn(evidence);
        row.learned.count(evidence);
        if !row.is_news && row.learned.differs(&row.told) {
            row.is_news = true;
            self.news.push(source);
        }
        let (known, tenant) = (row.learned.alone.weight(), row.tenant);
        self.sources.used(source, known);
        let account = &mut self.tenant_mut(tenant).account;
        account.learn(evidence);
        let known = account.hits;
        if let Some(tenant) = tenant {
            self.tenants.used(tenant, known);
        }
    }

    /// From now on what was learned of these sources holds: look at the functions that they announce to. Each once.
    pub(super) fn take_news(&mut self) -> Vec<Place> {
        for &source in &self.news {
            let source = self.sources.at_mut(source);
            source.is_news = false;
            source.told = source.learned;
        }
        std::mem::take(&mut self.news)
    }

    /// Rows that are pinned: notices held, and pairs in use.
    #[cfg(test)]
    pub(super) fn pins(&self) -> (u32, u32) {
        (self.sources.pins(), self.pairs.pins())
    }
}
