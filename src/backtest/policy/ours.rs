//! The product's own policy: the record and the model of `forecast`, and the price rule of `target`, as they run live.
//!
//! Must not: forecast or decide by itself.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Policy, Setup};
use crate::backtest::trace::Minute;
use crate::config::TargetConfig;
use crate::forecast::history::{History, Model};
use crate::target::Rule;

/// What the product's own policy is called among the policies.
pub const OURS: &str = "ours";

/// Probabilities below this are not asked for: no price that is offered is worth it.
const LEAST: f32 = 0.001;

/// What all prices share of one function.
struct Shared {
    model: Model,
    newcomer_share: f32,
    single: bool,
    history: History,
    /// The minute that `outlook` is about.
    minute: Option<u32>,
    outlook: Vec<(u32, f32)>,
}

impl Shared {
    fn look_at(&mut self, minute: u32) {
        if self.minute != Some(minute) {
            let levels_max = if self.single { 1 } else { u32::MAX };
            self.history.outlook(&self.model, self.newcomer_share, LEAST, levels_max, &mut self.outlook);
            self.minute = Some(minute);
        }
    }
}

/// One function at one price.
pub struct Ours {
    shared: Rc<RefCell<Shared>>,
    rule: Rule,
    /// Whether it is the one of those that share which takes in what was seen.
    records: bool,
    /// Instances that are there, held or used, from the minute before.
    there: u32,
}

impl Ours {
    /// One for each setup, for one function. `target` gives all numbers but the price.
    pub fn make(model: &Model, newcomer_share: f32, target: &TargetConfig, setups: &[Setup]) -> Vec<Box<dyn Policy>> {
        let shared = Rc::new(RefCell::new(Shared {
            model: model.clone(),
            newcomer_share,
            single: setups.iter().all(|setup| setup.single),
            history: History::new(0),
            minute: None,
            outlook: Vec::new(),
        }));
        let one = |(place, setup): (usize, &Setup)| {
            let rule = Rule::new(&TargetConfig { price: setup.price, ..target.clone() });
            let shared = Rc::clone(&shared);
            Box::new(Self { shared, rule, records: place == 0, there: 0 }) as Box<dyn Policy>
        };
        setups.iter().enumerate().map(one).collect()
    }
}

impl Policy for Ours {
    fn warm(&mut self, minute: u32) -> u32 {
        let mut shared = self.shared.borrow_mut();
        shared.look_at(minute);
        let level = self.rule.level(&shared.outlook, self.there);
        self.there = level;
        level
    }

    fn saw(&mut self, minute: u32, seen: &Minute) {
        self.there = self.there.max(seen.need);
        if self.records {
            self.shared.borrow_mut().history.saw(i64::from(minute), seen.need, seen.load as f32);
        }
    }
}
