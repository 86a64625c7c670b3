//! What can go wrong with a Kafka client as such, with the topic and what to do about it.
//!
//! Must not: carry what a single message suffers; `ingest`, `publish` and `registry` name that.

use std::io;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::refusal::{Refusal, advice};

/// A client that cannot be made, or a topic that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// librdkafka refused the settings.
    #[error("kafka client for {role} not created: {cause}; check kafka.bootstrap-servers and kafka.properties")]
    Create {
        /// What the client is for.
        role: &'static str,
        /// librdkafka's own words, without the value that it refused: that may be a secret.
        cause: String,
    },
    /// The brokers do not let this client make transactions.
    #[error("no transactions as {id}: {source}{}", of_transactions(source))]
    Transactions {
        /// The transactional id.
        id: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// Its thread could not be started.
    #[error("thread {name} not started: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's own words.
        source: io::Error,
    },
    /// A topic could not be subscribed to or assigned.
    #[error("topic {topic} not subscribed to: {source}")]
    Subscribe {
        /// The topic.
        topic: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// The brokers did not say what they know about a topic.
    #[error("metadata of topic {topic} not fetched: {source}{heard}{}", advice(source))]
    Metadata {
        /// The topic.
        topic: String,
        /// librdkafka's own words.
        source: Box<KafkaError>,
        /// What it said of the connections meanwhile, behind a colon; empty where nobody listened.
        heard: String,
    },
    /// No broker answers at any of the addresses.
    #[error(
        "no broker answers at {servers}: {reason}; check kafka.bootstrap-servers, and whether they run and let this host in"
    )]
    Unreachable {
        /// The addresses, as they were given.
        servers: String,
        /// What was said of the connections.
        reason: String,
    },
    /// The brokers did not say where a partition begins and ends.
    #[error("partition {partition} of topic {topic} not read: {source}{}", advice(source))]
    Partition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// The brokers refuse to say.
    #[error("topic {topic} not usable: {code}{}", of_topic(*code))]
    Topic {
        /// The topic.
        topic: String,
        /// The broker's code.
        code: RDKafkaErrorCode,
    },
    /// The topic does not exist and may not be created.
    #[error(
        "topic {topic} does not exist; create it with {partitions} or more partitions, or let this service create it"
    )]
    TopicMissing {
        /// The topic.
        topic: String,
        /// How many partitions it would have got.
        partitions: i32,
    },
    /// The topic could not be created.
    #[error("topic {topic} not created: {cause}{}", of_creation(*code, *replication, *brokers))]
    TopicNotCreated {
        /// The topic.
        topic: String,
        /// The broker's own words, or librdkafka's.
        cause: String,
        /// The code that came with them, where there was one.
        code: Option<RDKafkaErrorCode>,
        /// The replicas that were asked for; -1 is the brokers' default.
        replication: i32,
        /// How many brokers there are, as far as they say; 0 where they do not.
        brokers: usize,
    },
}

/// What to do where the brokers refuse to speak of a topic.
fn of_topic(code: RDKafkaErrorCode) -> &'static str {
    match Refusal::of(Some(code)) {
        Refusal::Lasting => "; check its name",
        refusal => refusal.advice(),
    }
}

/// What to do where there are no transactions. Brokers that refuse them are known to answer.
fn of_transactions(error: &KafkaError) -> &'static str {
    match Refusal::of(error.rdkafka_error_code()) {
        Refusal::NotAllowed | Refusal::Lasting => "; allow this client to write and describe that transactional id",
        refusal => refusal.advice(),
    }
}

/// What to do where a topic was not created.
fn of_creation(code: Option<RDKafkaErrorCode>, replication: i32, brokers: usize) -> String {
    match (code, Refusal::of(code)) {
        (Some(RDKafkaErrorCode::InvalidReplicationFactor), _) => {
            let wanted = match replication {
                -1 => "the brokers' default of replicas (topics.replication-factor = -1) is above that".to_owned(),
                number => format!("topics.replication-factor = {number} is above that"),
            };
            format!(
                "; the cluster has {brokers} brokers now, and {wanted}: lower it, or wait for brokers that are away"
            )
        }
        (_, Refusal::NotAllowed) => "; create it by hand, or allow this client to create topics".to_owned(),
        (_, Refusal::Lasting) => "; create it by hand, or mend [topics] in the configuration".to_owned(),
        (_, refusal) => refusal.advice().to_owned(),
    }
}

impl ClientError {
    /// Whether it may be otherwise in a moment, without anybody's doing.
    pub fn may_pass(&self) -> bool {
        let code = match self {
            Self::Metadata { source, .. } => source.rdkafka_error_code(),
            Self::Partition { source, .. } => source.rdkafka_error_code(),
            Self::Topic { code, .. } => Some(*code),
            Self::TopicNotCreated { code, .. } => *code,
            _ => None,
        };
        Refusal::of(code).may_pass()
    }

    /// A client that was not created.
    pub fn create(role: &'static str, error: &KafkaError) -> Self {
        let cause = match error {
            // A secret stands here under whatever name it was given, also a misspelt one.
            KafkaError::ClientConfig(_, description, key, value) => {
                let description = description.replace(&format!("\"{value}\""), "\"…\"");
                format!("{description} (property {key})")
            }
            error => error.to_string(),
        };
        Self::Create { role, cause }
    }
}

/// Whether an error is about the connection to one broker. librdkafka tries on, and reports it where no broker is left.
pub fn is_of_one_broker(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BrokerTransportFailure, OperationTimedOut, Resolve};
    matches!(error.rdkafka_error_code(), Some(BrokerTransportFailure | OperationTimedOut | Resolve))
}

/// Whether an error is of the batch that stands in the topic, and not of the reader or of the moment: another attempt finds the
/// same, unless another replica has a better copy.
pub fn is_of_a_batch(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, InvalidMessage, MessageSizeTooLarge, NotImplemented};
    matches!(code, BadCompression | NotImplemented | BadMessage | InvalidMessage | MessageSizeTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_not_created_says_what_to_change() {
        let failed = |code, replication| ClientError::TopicNotCreated {
            topic: "results".to_owned(),
            cause: "refused".to_owned(),
            code: Some(code),
            replication,
            brokers: 3,
        };
        let (factor, right) = (RDKafkaErrorCode::InvalidReplicationFactor, RDKafkaErrorCode::TopicAuthorizationFailed);
        let said = failed(factor, 5).to_string();
        assert!(said.contains("topics.replication-factor = 5") && said.contains("3 brokers"), "{said}");
        assert!(failed(factor, -1).to_string().contains("topics.replication-factor = -1"));
        assert!(failed(right, 1).to_string().contains("allow this client"));
        assert!(failed(factor, 5).may_pass() && !failed(right, 5).may_pass());
    }

    #[test]
    fn a_partition_without_a_leader_says_so() {
        let source = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition);
        let said = ClientError::Partition { topic: "results".to_owned(), partition: 4, source }.to_string();
        assert!(said.contains("partition 4 of topic results") && said.contains("no leader"), "{said}");
        assert!(!said.contains("bootstrap-servers"), "{said}");
    }

    /// librdkafka itself refuses these, with its own words for each.
    #[test]
    fn a_value_that_librdkafka_refuses_is_not_repeated() {
        for key in ["sasl.pasword", "sasl.password.word", "security.protocol", "linger.ms", "transactional.idd"] {
            let mut config = rdkafka::ClientConfig::new();
            config.set(key, "hush-hush");
            let error = config.create::<rdkafka::producer::BaseProducer>().err().expect(key);
            let error = ClientError::create("test", &error);
            let said = format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(said.contains(key) && !said.contains("hush"), "{said}");
        }
    }
}
