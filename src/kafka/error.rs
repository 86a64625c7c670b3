//! What can go wrong with a Kafka client as such, with the topic and what to do about it.
//!
//! Must not: carry what a single message suffers; `ingest`, `publish` and `registry` name that.

use std::io;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

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
    #[error(
        "no transactions as {id}: {source}; check that the brokers answer and that this client may write and describe that \
         transactional id"
    )]
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
    #[error(
        "metadata of topic {topic} not fetched: {source}; check that the brokers in kafka.bootstrap-servers answer"
    )]
    Metadata {
        /// The topic.
        topic: String,
        /// librdkafka's own words.
        source: KafkaError,
    },
    /// The brokers refuse to say.
    #[error("topic {topic} not usable: {code}; check its name and this client's access rights")]
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
    #[error("topic {topic} not created: {cause}; create it by hand, or allow this client to")]
    TopicNotCreated {
        /// The topic.
        topic: String,
        /// The broker's own words.
        cause: String,
    },
}

impl ClientError {
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

#[cfg(test)]
mod tests {
    use super::*;

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
