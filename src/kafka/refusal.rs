//! What a code of the brokers or of librdkafka means for who has to do something about it: the one place that sorts them.
//!
//! Must not: do anything about them.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The kinds of refusals that differ in what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No broker has answered.
    NoAnswer,
    /// A partition has no leader at the moment, or is led by another broker than was asked.
    NoLeader,
    /// The brokers are not whole at the moment: a broker is fenced, a coordinator or the controller moves, a log is loaded.
    NotWhole,
    /// This client may not.
    NotAllowed,
    /// Anything else: it will be the same the next time.
    Lasting,
}

impl Refusal {
    /// What this code is.
    pub fn of(code: Option<Code>) -> Self {
        match code {
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::TimedOutQueue
                | Code::MessageTimedOut
                | Code::RequestTimedOut
                | Code::NetworkException,
            ) => Self::NoAnswer,
            Some(
                Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::UnknownPartition
                | Code::ReplicaNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch,
            ) => Self::NoLeader,
            Some(
                Code::InvalidReplicationFactor
                | Code::BrokerNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::NotController
                | Code::NotEnoughReplicas
                | Code::NotEnoughReplicasAfterAppend
                | Code::KafkaStorageError
                | Code::RebalanceInProgress
                | Code::ThrottlingQuotaExceeded,
            ) => Self::NotWhole,
            Some(
                Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed,
            ) => Self::NotAllowed,
            _ => Self::Lasting,
        }
    }

    /// Whether it may be otherwise in a moment, without anybody's doing.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::NoAnswer | Self::NoLeader | Self::NotWhole)
    }

    /// What to do, as a clause of its own behind a semicolon; empty where that is not known.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoAnswer => "; check that the brokers in kafka.bootstrap-servers answer",
            Self::NoLeader => {
                "; it has no leader now, though brokers answer: a broker that holds a replica of it has to come back"
            }
            Self::NotWhole => "; the brokers answer, and are not whole now",
            Self::NotAllowed => "; check this client's credentials and access rights (kafka.properties)",
            Self::Lasting => "",
        }
    }
}

/// [`Refusal::advice`] about an error of librdkafka.
pub(super) fn advice(error: &KafkaError) -> &'static str {
    Refusal::of(error.rdkafka_error_code()).advice()
}

/// Whether the brokers say that another member of the group has this one's name (`group.instance.id`).
pub fn is_of_the_name(code: Code) -> bool {
    matches!(code, Code::FencedInstanceId | Code::UnreleasedInstanceId)
}

/// Why a client is of no more use, in words that say what to do: a code by which the brokers say that another process has its
/// name is told as that.
pub fn fatal(code: Code, words: &str) -> String {
    let said = format!("{code}: {words}");
    match code {
        _ if is_of_the_name(code) => format!(
            "{said}; another process runs with this node's name (node.id, or group.instance.id of kafka.properties): each node \
             needs its own"
        ),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_lasts_is_not() {
        let passing = [
            Code::InvalidReplicationFactor,
            Code::LeaderNotAvailable,
            Code::NotController,
            Code::CoordinatorLoadInProgress,
            Code::CoordinatorNotAvailable,
            Code::BrokerTransportFailure,
            Code::OperationTimedOut,
            Code::Resolve,
            Code::RequestTimedOut,
        ];
        assert!(passing.into_iter().all(|code| Refusal::of(Some(code)).may_pass()));
        let lasting = [
            Code::TopicAuthorizationFailed,
            Code::Authentication,
            Code::InvalidTopic,
            Code::PolicyViolation,
            Code::InvalidConfig,
            Code::InvalidPartitions,
            Code::FencedInstanceId,
        ];
        assert!(lasting.into_iter().all(|code| !Refusal::of(Some(code)).may_pass()));
        assert!(!Refusal::of(None).may_pass());
    }

    #[test]
    fn only_who_does_not_answer_is_to_be_checked_for_answers() {
        let advice = |code| Refusal::of(Some(code)).advice();
        assert!(advice(Code::BrokerTransportFailure).contains("answer"));
        assert!(advice(Code::UnknownPartition).contains("no leader"));
        assert!(advice(Code::TopicAuthorizationFailed).contains("access rights"));
        for code in [Code::UnknownPartition, Code::NotLeaderForPartition, Code::TopicAuthorizationFailed] {
            assert!(!advice(code).contains("bootstrap-servers"), "{code}");
        }
    }

    #[test]
    fn a_name_that_another_process_has_is_told_as_that() {
        let said = fatal(Code::FencedInstanceId, "words");
        assert!(said.contains("another process") && said.contains("group.instance.id") && said.contains("words"));
        assert!(!fatal(Code::ClusterAuthorizationFailed, "words").contains("another process"));
    }
}
