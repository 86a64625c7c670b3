//! What guests announce: calls of other functions, as pre-triggers of their own.
//!
//! Must not: judge whether a notice is true. The forecaster learns that, as it does of every source.

use std::sync::Arc;
use std::time::Duration;

use super::bindings::forewarm::function::pre_triggers::{self, PreTrigger as Notice};
use super::host::{Host, Preview2};
use super::wall_clock;
use crate::types::{FunctionDefinition, FunctionName, Invocation, PreTrigger};

/// Where pre-triggers of guests go. Called on the guest's thread: it must not block.
pub type Announce = Arc<dyn Fn(PreTrigger) + Send + Sync>;

/// Most notices of one call (inclusive).
const NOTICES_MAX: u32 = 16;

/// One guest's way to announce.
pub(super) struct Announcer {
    function: FunctionName,
    /// The definition's. A call's own word for its tenant is nobody's proof, and a budget of notices hangs on this.
    tenant: Option<String>,
    announce: Announce,
    /// Of the call that runs; kept from call to call, so that a call costs no allocation.
    call: String,
    notices: u32,
}

impl Announcer {
    pub(super) fn new(definition: &FunctionDefinition, announce: Announce) -> Self {
        let FunctionDefinition { name, tenant, .. } = definition;
        Self { function: name.clone(), tenant: tenant.clone(), announce, call: String::new(), notices: 0 }
    }

    /// Another call begins.
    pub(super) fn begin(&mut self, invocation: &Invocation) {
        self.notices = 0;
        self.call.clear();
        self.call.push_str(&invocation.id);
    }

    fn notice(&mut self, notice: &Notice) -> Result<PreTrigger, String> {
        let Notice { function, expected_invocations, confidence, delay_ms, window_ms } = notice;
        let function = FunctionName::new(function).map_err(|fault| fault.to_string())?;
        if *expected_invocations == 0 || *window_ms == 0 {
            return Err("expected-invocations and window-ms must be at least 1".to_owned());
        }
        if u64::from(*window_ms) > PreTrigger::WINDOW_MS_MAX {
            return Err(format!("window-ms must be at most {} and is {window_ms}", PreTrigger::WINDOW_MS_MAX));
        }
        if !(0.0..=1.0).contains(confidence) {
            return Err("confidence must be from 0.0 to 1.0".to_owned());
        }
        if self.notices >= NOTICES_MAX {
            return Err(format!("a call announces at most {NOTICES_MAX} times"));
        }
        self.notices += 1;
        let now = wall_clock();
        let delay = Duration::from_millis(u64::from(*delay_ms));
        let caused_by = (!self.call.is_empty()).then(|| ("invocation_id".to_owned(), self.call.clone()));
        Ok(PreTrigger {
            id: uuid::Uuid::now_v7().to_string(),
            source: format!("function:{}", self.function),
            function,
            tenant: self.tenant.clone(),
            expected_invocations: *expected_invocations,
            confidence: *confidence,
            not_before: (!delay.is_zero()).then(|| now + delay),
            window_ms: u64::from(*window_ms),
            emitted_at: now,
            attributes: caused_by.into_iter().collect(),
        })
    }
}

impl pre_triggers::Host for Host<Preview2> {
    fn announce(&mut self, notice: Notice) -> Result<(), String> {
        let pre_trigger = self.announcer.notice(&notice)?;
        (self.announcer.announce)(pre_trigger);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    fn announcer(tenant: Option<&str>) -> Announcer {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new("orders".parse().unwrap(), "1", artifact, FunctionKind::Component);
        definition.tenant = tenant.map(str::to_owned);
        Announcer::new(&definition, Arc::new(|_| {}))
    }

    fn notice(function: &str, expected_invocations: u32, confidence: f64, window_ms: u32) -> Notice {
        Notice { function: function.to_owned(), expected_invocations, confidence, delay_ms: 250, window_ms }
    }

    fn call(id: &str, tenant: Option<&str>) -> Invocation {
        Invocation {
            id: id.to_owned(),
            function: "orders".parse().unwrap(),
            tenant: tenant.map(str::to_owned),
            payload: crate::types::Payload(Vec::new()),
            content_type: None,
            deadline: None,
            invoked_at: wall_clock(),
            attributes: Default::default(),
        }
    }

    #[test]
    fn a_notice_names_its_function_its_call_and_the_definitions_tenant() {
        let announcer_of = announcer;
        let mut announcer = announcer_of(Some("acme"));
        announcer.begin(&call("call-1", Some("not-acme")));
        let said = announcer.notice(&notice("mail", 3, 0.5, 2_000)).unwrap();
        assert_eq!(
            (said.source.as_str(), said.function.as_str(), said.tenant.as_deref()),
            ("function:orders", "mail", Some("acme"))
        );
        assert_eq!((said.expected_invocations, said.confidence, said.window_ms), (3, 0.5, 2_000));
        assert_eq!(said.not_before, Some(said.emitted_at + Duration::from_millis(250)));
        assert_eq!(said.attributes.get("invocation_id").map(String::as_str), Some("call-1"));
        announcer.begin(&call("call-2", None));
        let said = announcer.notice(&notice("mail", 3, 0.5, 2_000)).unwrap();
        assert_eq!((said.tenant.as_deref(), said.attributes["invocation_id"].as_str()), (Some("acme"), "call-2"));

        let mut unowned = announcer_of(None);
        unowned.begin(&call("call-3", Some("acme")));
        assert_eq!(unowned.notice(&notice("mail", 3, 0.5, 2_000)).unwrap().tenant, None);
    }

    #[test]
    fn what_is_wrong_or_too_much_is_said() {
        let mut announcer = announcer(None);
        announcer.begin(&call("call-1", None));
        for (bad, wanted) in [
            (notice("no such name!", 1, 1.0, 1), "function name \"no such name!\" is not valid"),
            (notice("mail", 0, 1.0, 1), "at least 1"),
            (notice("mail", 1, 1.0, 0), "at least 1"),
            (notice("mail", 1, 1.0, 86_400_001), "window-ms must be at most 86400000 and is 86400001"),
            (notice("mail", 1, f64::NAN, 1), "confidence"),
            (notice("mail", 1, 1.1, 1), "confidence"),
        ] {
            let said = announcer.notice(&bad).unwrap_err();
            assert!(said.contains(wanted), "{said}");
        }
        let allowed = (0..20).filter(|_| announcer.notice(&notice("mail", 1, 1.0, 1)).is_ok()).count();
        assert_eq!(allowed, 16);
        announcer.begin(&call("call-2", None));
        assert!(announcer.notice(&notice("mail", 1, 1.0, 1)).is_ok());
    }
}
