//! Who may announce calls of which function, by the topic that the pre-trigger came on.
//!
//! The brokers' access control says who writes to a topic; here it is said what a topic may speak of. Must not: judge what is
//! announced; `judge` does.

use std::sync::Arc;

use super::verdict::Criterion;
use crate::config::Tenants;
use crate::types::PreTrigger;

/// What the names of the service's own sources begin with: what functions announce, and what rules of an operator do.
const OWN_SOURCES: [&str; 2] = ["function:", "rule:"];

/// Which topic a pre-trigger came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one that all share.
    Shared,
    /// The one of guests' notices, which nodes alone write.
    Guests,
    /// The one of this tenant.
    Tenant(Arc<str>),
}

impl Origin {
    /// Whether a pre-trigger may come from here. Where the topic is a tenant's own, the pre-trigger is that tenant's from now
    /// on. A withdrawal is judged alike, so that only the topic of a notice can withdraw it.
    ///
    /// # Errors
    /// Where it may not.
    pub fn admit(&self, tenants: &Tenants, pre_trigger: &mut PreTrigger) -> Result<(), Criterion> {
        let owner = tenants.owner_of(&pre_trigger.function).map(|owner| owner.tenant.as_str());
        let said = pre_trigger.tenant.as_deref();
        if *self != Self::Guests && OWN_SOURCES.iter().any(|own| pre_trigger.source.starts_with(own)) {
            return Err(Criterion::SourceReserved);
        }
        let allowed = match self {
            Self::Shared => owner.is_none() && !tenants.with_topics().any(|other| said == Some(&other.tenant)),
            Self::Guests => owner.is_none() || owner == said,
            Self::Tenant(tenant) => owner == Some(tenant) && said.is_none_or(|said| *said == **tenant),
        };
        if !allowed {
            return Err(Criterion::OtherTenant);
        }
        if let Self::Tenant(tenant) = self {
            pre_trigger.tenant.get_or_insert_with(|| tenant.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamedTenant;
    use crate::types::Timestamp;

    fn pre_trigger(function: &str, source: &str, tenant: Option<&str>) -> PreTrigger {
        PreTrigger {
            id: "1".to_owned(),
            source: source.to_owned(),
            function: function.parse().unwrap(),
            tenant: tenant.map(str::to_owned),
            expected_invocations: 1,
            confidence: 1.0,
            not_before: None,
            window_ms: 1_000,
            emitted_at: Timestamp::from_millis(0),
            attributes: Default::default(),
        }
    }

    #[test]
    fn a_topic_announces_only_what_it_may_speak_of() {
        let tenant = |name: &str| NamedTenant {
            tenant: name.to_owned(),
            prefix: format!("{name}/"),
            functions_topic: format!("{name}-functions"),
            pre_triggers_topic: format!("{name}-pre-triggers"),
            ..NamedTenant::default()
        };
        let tenants = Tenants { named: vec![tenant("acme"), tenant("beta")], ..Tenants::default() };
        let (shared, guests, acme) = (Origin::Shared, Origin::Guests, Origin::Tenant("acme".into()));
        let (other, reserved) = (Err(Criterion::OtherTenant), Err(Criterion::SourceReserved));
        let rows = [
            (&shared, "pay", "shop", None, Ok(None)),
            (&shared, "pay", "shop", Some("plain"), Ok(Some("plain"))),
            (&shared, "pay", "shop", Some("acme"), other),
            (&shared, "acme/pay", "shop", None, other),
            (&shared, "acme/pay", "shop", Some("acme"), other),
            (&shared, "pay", "function:order", None, reserved),
            (&shared, "pay", "rule:1", None, reserved),
            (&acme, "acme/pay", "shop", None, Ok(Some("acme"))),
            (&acme, "acme/pay", "shop", Some("acme"), Ok(Some("acme"))),
            (&acme, "acme/pay", "shop", Some("beta"), other),
            (&acme, "beta/pay", "shop", None, other),
            (&acme, "pay", "shop", None, other),
            (&acme, "acme/pay", "function:acme/order", None, reserved),
            (&guests, "pay", "function:order", None, Ok(None)),
            (&guests, "acme/pay", "function:acme/order", Some("acme"), Ok(Some("acme"))),
            (&guests, "acme/pay", "function:order", None, other),
            (&guests, "acme/pay", "function:beta/order", Some("beta"), other),
        ];
        for (origin, function, source, said, wanted) in rows {
            let mut pre_trigger = pre_trigger(function, source, said);
            let admitted = origin.admit(&tenants, &mut pre_trigger).map(|()| pre_trigger.tenant.as_deref());
            assert_eq!(admitted, wanted, "{origin:?} {function} {source} {said:?}");
        }
    }
}
