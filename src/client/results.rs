//! Reads the `results` topic without a group: every partition, from its end or its beginning.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::RequestError;
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::{ClientError, Connection, Quiet, headers, partition_ids};
use crate::types::InvocationResult;

const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes after this moment.
    Now,
    /// With the oldest result that is kept.
    Beginning,
}

/// See the head of this file.
pub struct Results {
    consumer: BaseConsumer<Quiet>,
    codec: Arc<Codec>,
    /// Partitions whose end was not reached yet.
    unread: HashSet<i32>,
}

/// A result as it came.
#[derive(Debug)]
pub struct Came {
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// The message's headers.
    pub headers: headers::Headers,
    /// The result.
    pub result: InvocationResult,
}

impl Results {
    pub(super) fn open(
        connection: &Connection,
        topic: &str,
        from: Start,
        codec: Arc<Codec>,
    ) -> Result<Self, RequestError> {
        let consumer: BaseConsumer<Quiet> = connection
            .reader()
            .create_with_context(Quiet { role: "results" })
            .map_err(|source| ClientError::Create { role: "results", source })?;
        let mut assignment = TopicPartitionList::new();
        let mut unread = HashSet::new();
        let missing = || ClientError::TopicMissing { topic: topic.to_owned(), partitions: 1 };
        for partition in partition_ids(consumer.client(), topic, METADATA_TIMEOUT)?.ok_or_else(missing)? {
            let start = match from {
                Start::Beginning => Offset::Beginning,
                // Asked for now, not when the first fetch happens: a result that comes in between must be seen.
                Start::Now => {
                    let (_, end) =
                        consumer.fetch_watermarks(topic, partition, METADATA_TIMEOUT).map_err(RequestError::Read)?;
                    Offset::Offset(end)
                }
            };
            unread.insert(partition);
            assignment.add_partition_offset(topic, partition, start).map_err(RequestError::Read)?;
        }
        consumer.assign(&assignment).map_err(|source| ClientError::Subscribe { topic: topic.to_owned(), source })?;
        Ok(Self { consumer, codec, unread })
    }

    /// Whether the end of every partition was met at least once.
    pub fn at_end(&self) -> bool {
        self.unread.is_empty()
    }

    /// The next result, or `None` where none came within `wait`. What is no result is passed over with a warning.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Came>, RequestError> {
        let Some(polled) = self.consumer.poll(wait) else { return Ok(None) };
        let message = match polled {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(partition)) => {
                self.unread.remove(&partition);
                return Ok(None);
            }
            Err(fault) if fault.rdkafka_error_code().is_some_and(is_passing) => return Ok(None),
            Err(fault) => return Err(RequestError::Read(fault)),
        };
        let (headers, _) = headers::read(&message);
        let content_type = headers::text(&headers, "content-type");
        let bytes = message.payload().unwrap_or_default();
        match self.codec.decode::<InvocationResult>(bytes, content_type, &NoSchemaRegistry) {
            Ok(result) => Ok(Some(Came { key: message.key().map(<[u8]>::to_vec), headers, result })),
            Err(fault) => {
                tracing::warn!(partition = message.partition(), offset = message.offset(), %fault, "not a result");
                Ok(None)
            }
        }
    }
}

/// Errors of a broker that is away for a moment: librdkafka goes on by itself.
fn is_passing(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(code, Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve)
}
