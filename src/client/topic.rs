//! Reads one topic without a group: every partition, from its end or its beginning, committed messages only.
//!
//! Must not: know what a message means.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::RequestError;
use crate::kafka::{ClientError, Connection, Quiet, partition_ids};

const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes after this moment.
    Now,
    /// With the oldest message that is kept.
    Beginning,
}

/// See the head of this file.
pub(super) struct Topic {
    consumer: BaseConsumer<Quiet>,
    /// Partitions whose end was not reached yet.
    unread: HashSet<i32>,
}

impl Topic {
    pub(super) fn open(
        connection: &Connection,
        topic: &str,
        role: &'static str,
        from: Start,
    ) -> Result<Self, RequestError> {
        let consumer: BaseConsumer<Quiet> = connection
            .reader()
            .create_with_context(Quiet { role })
            .map_err(|error| ClientError::create(role, &error))?;
        let read = |source| RequestError::Read { topic: topic.to_owned(), source };
        let mut assignment = TopicPartitionList::new();
        let mut unread = HashSet::new();
        let missing = || ClientError::TopicMissing { topic: topic.to_owned(), partitions: 1 };
        for partition in partition_ids(consumer.client(), topic, METADATA_TIMEOUT)?.ok_or_else(missing)? {
            let start = match from {
                Start::Beginning => Offset::Beginning,
                // Asked for now, not when the first fetch happens: what comes in between must be seen.
                Start::Now => {
                    let of = |source| ClientError::Partition { topic: topic.to_owned(), partition, source };
                    let (_, end) = consumer.fetch_watermarks(topic, partition, METADATA_TIMEOUT).map_err(of)?;
                    Offset::Offset(end)
                }
            };
            unread.insert(partition);
            assignment.add_partition_offset(topic, partition, start).map_err(read)?;
        }
        consumer.assign(&assignment).map_err(|source| ClientError::Subscribe { topic: topic.to_owned(), source })?;
        Ok(Self { consumer, unread })
    }

    /// Whether the end of every partition was met at least once.
    pub(super) fn at_end(&self) -> bool {
        self.unread.is_empty()
    }

    /// What `take` makes of the next message; `None` where none came within `wait`.
    pub(super) fn next<T>(
        &mut self,
        topic: &str,
        wait: Duration,
        take: impl FnOnce(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        match self.consumer.poll(wait) {
            None => Ok(None),
            Some(Ok(message)) => Ok(take(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.unread.remove(&partition);
                Ok(None)
            }
            Some(Err(fault)) if fault.rdkafka_error_code().is_some_and(is_passing) => Ok(None),
            Some(Err(source)) => Err(RequestError::Read { topic: topic.to_owned(), source }),
        }
    }
}

/// Errors of a broker that is away for a moment: librdkafka goes on by itself. And that this user may not use the group whose name a
/// reader has to have: it is no member of it.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::Resolve
            | Code::GroupAuthorizationFailed
    )
}
