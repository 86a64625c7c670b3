//! A control plane for targets that hand it something: what happens to it, and what must hold after each tick.
//!
//! Must not: hold anything that the input does not decide.

use std::sync::Arc;
use std::time::Duration;

use forewarm::config::{ChainsConfig, ForecastConfig, TargetConfig};
use forewarm::control::{Action, Control, Event};
use forewarm::forecast::chains::Evidence;
use forewarm::forecast::history::Model;
use forewarm::invariant::violations;
use forewarm::types::{
    Artifact, FunctionDefinition, FunctionKind, FunctionName, PoolUsage, PreTrigger, Sha256, Status, Timestamp,
};

/// When every story begins.
pub const BEGIN: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A control plane and its time.
pub struct Plane {
    /// What is under test.
    pub control: Control,
    /// The wall clock.
    pub now: Timestamp,
    /// What it said and nobody took yet.
    pub actions: Vec<Action>,
}

impl Plane {
    /// One that knows nothing.
    pub fn new() -> Self {
        let control = Control::new(
            ForecastConfig::default(),
            &ChainsConfig::default(),
            TargetConfig::default(),
            Model::shipped(),
        );
        Self { control, now: BEGIN, actions: Vec::new() }
    }

    /// Something happens.
    pub fn handle(&mut self, event: Event) {
        self.control.handle(self.now, event, &mut self.actions);
    }

    /// A function is registered, long ago.
    pub fn define(&mut self, definition: Arc<FunctionDefinition>) {
        self.handle(Event::FunctionDefined { definition, since: Timestamp::ZERO });
    }

    /// Calls are announced for the next half minute.
    pub fn announce(&mut self, function: &FunctionName, id: &str, expected_invocations: u32) {
        self.handle(Event::PreTriggerReceived(PreTrigger {
            id: id.to_owned(),
            source: "source".to_owned(),
            function: function.clone(),
            tenant: Some("tenant".to_owned()),
            expected_invocations,
            confidence: 0.5,
            not_before: None,
            window_ms: 30_000,
            emitted_at: self.now,
            attributes: Default::default(),
        }));
    }

    /// A call comes, and ends a while later.
    pub fn call(&mut self, function: &FunctionName, execute: Duration) {
        let evidence = Evidence { trace: Some(7), key: None };
        self.handle(Event::InvocationArrived { function: function.clone(), evidence });
        self.now = self.now + execute;
        let function = function.clone();
        self.handle(Event::InvocationEnded { function, status: Status::Ok, start_kind: None, execute });
    }

    /// Time passes, and then everything that must hold does.
    pub fn tick(&mut self, after: Duration, usage: Vec<(FunctionName, PoolUsage)>) {
        self.now = self.now + after;
        self.handle(Event::Ticked { usage });
        assert_eq!(violations(&self.control), []);
        for function in self.control.explanations() {
            let demand = function.demand;
            assert!(demand.history.is_finite() && demand.history >= 0.0, "{demand:?}");
            assert!(demand.outlook.iter().all(|(_, probability)| is_probability(*probability)), "{demand:?}");
            for notice in &demand.notices {
                assert!(notice.calls.is_finite() && notice.calls >= 0.0, "{notice:?}");
                assert!(notice.yields.iter().all(|probability| is_probability(*probability)), "{notice:?}");
            }
        }
        for (from, to, edge) in self.control.chains(self.now, None) {
            assert!(is_probability(edge.probability) && edge.support.is_finite(), "{from} to {to}: {edge:?}");
            assert!(edge.earliest <= edge.latest && edge.came <= edge.announced, "{from} to {to}: {edge:?}");
        }
    }
}

fn is_probability(number: f32) -> bool {
    (0.0..=1.0).contains(&number)
}

/// A function's name that is known to be one.
pub fn name(name: &str) -> FunctionName {
    FunctionName::new(name).expect("a plain name")
}

/// A definition with every default.
pub fn plain(function: &str) -> FunctionDefinition {
    let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
    FunctionDefinition::new(name(function), "1", artifact, FunctionKind::Component)
}
