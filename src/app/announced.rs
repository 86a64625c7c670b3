//! Pre-triggers are taken, refused or passed on, by the topic that each came on.
//!
//! Must not: say what a topic may speak of; `forecast` does.

use std::sync::Arc;

use super::{Executor, Metrics, Observations, Outbox};
use crate::config::{Config, Tenants};
use crate::control::Event;
use crate::forecast::Origin;
use crate::ingest::pre_triggers::PreTriggerEvent;
use crate::registry::Fences;

/// Every topic with pre-triggers, and what it is.
pub(super) fn origins(config: &Config) -> impl Iterator<Item = (&str, Origin)> {
    let own = config.tenants.with_topics();
    let own = own.map(|tenant| (&*tenant.pre_triggers_topic, Origin::Tenant(tenant.tenant.as_str().into())));
    let topics = &config.topics;
    [(&*topics.pre_triggers, Origin::Shared), (&*topics.guest_notices, Origin::Guests)].into_iter().chain(own)
}

/// Takes what was read to the control plane.
#[derive(Clone)]
pub(super) struct Announced {
    pub(super) tenants: Arc<Tenants>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) observations: Observations,
    pub(super) fences: Fences,
    pub(super) executor: Executor<Arc<Outbox>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Announced {
    /// Answers whether there was room. A pre-trigger for a function that is not known waits until the registry was read to
    /// its end.
    pub(super) fn take(&mut self, origin: &Origin, event: PreTriggerEvent) -> bool {
        let mut pre_trigger = match event {
            PreTriggerEvent::Received(pre_trigger) => pre_trigger,
            PreTriggerEvent::Malformed { poison, partition, offset, key, headers } => {
                self.metrics.pre_trigger_judged("malformed");
                self.outbox.dead_letter(poison, (partition, offset), key, headers, None);
                return true;
            }
        };
        if let Err(criterion) = origin.admit(&self.tenants, &mut pre_trigger) {
            return self.observations.see(Event::PreTriggerRefused { pre_trigger, criterion });
        }
        if self.executor.knows(&pre_trigger.function) {
            return self.observations.see(Event::PreTriggerReceived(pre_trigger));
        }
        let (observations, function) = (self.observations.clone(), pre_trigger.function.clone());
        // Read or not, the control plane judges it: it says which function is unknown.
        self.fences.of(&function).fence(move |_| {
            observations.see(Event::PreTriggerReceived(pre_trigger));
        })
    }
}
