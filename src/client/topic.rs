//! Reads one topic without a group: every partition, from its end, its beginning or a moment on, committed messages only.
//!
//! Must not: know what a message means.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::tell::{Tell, Told};
use super::{RequestError, WAITS};
use crate::kafka::{ClientError, Connection, Listener, partition_ids};
use crate::types::Timestamp;

const METADATA_TIMEOUT: Duration = Duration::from_secs(15);
/// From one question to the next.
const AGAIN: Duration = Duration::from_millis(100);
/// How long nothing may come of a topic whose end was not met.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes after this moment.
    Now,
    /// With the oldest message that is kept.
    Beginning,
    /// With the first message of each partition whose time is this or later.
    Since(Timestamp),
}

/// See the head of this file.
pub(super) struct Topic {
    name: String,
    consumer: BaseConsumer<Listener>,
    /// Partitions whose end was not reached yet.
    unread: HashSet<i32>,
    /// When something came last.
    came_at: Instant,
    has_said: bool,
    tell: Tell,
}

impl Topic {
    pub(super) fn open(
        connection: &Connection,
        topic: &str,
        role: &'static str,
        from: Start,
        tell: Tell,
    ) -> Result<Self, RequestError> {
        let consumer: BaseConsumer<Listener> = connection
            .reader()
            .create_with_context(Listener::new(role))
            .map_err(|error| ClientError::create(role, &error))?;
        let read = |source| RequestError::Read { topic: topic.to_owned(), source };
        let mut assignment = TopicPartitionList::new();
        let mut unread = HashSet::new();
        let missing = || ClientError::TopicMissing { topic: topic.to_owned(), partitions: 1 };
        let ids = patiently(|| partition_ids(consumer.client(), topic, METADATA_TIMEOUT))?.ok_or_else(missing)?;
        for partition in ids {
            let start = match from {
                Start::Beginning => Offset::Beginning,
                Start::Since(at) => Offset::Offset(at.as_millis().max(0)),
                // Asked for now, not when the first fetch happens: what comes in between must be seen.
                Start::Now => {
                    let of = |source| ClientError::Partition { topic: topic.to_owned(), partition, source };
                    let ask = || consumer.fetch_watermarks(topic, partition, METADATA_TIMEOUT).map_err(of);
                    let (_, end) = patiently(ask)?;
                    Offset::Offset(end)
                }
            };
            unread.insert(partition);
            assignment.add_partition_offset(topic, partition, start).map_err(read)?;
        }
        if matches!(from, Start::Since(_)) {
            // Times in, offsets out; the end, where nothing is so young.
            let ask = || {
                let found = consumer.offsets_for_times(assignment.clone(), METADATA_TIMEOUT)?;
                found.elements().iter().try_for_each(|partition| partition.error())?;
                Ok(found)
            };
            let of = |source| ClientError::Metadata {
                topic: topic.to_owned(),
                source: Box::new(source),
                heard: String::new(),
            };
            assignment = patiently(|| ask().map_err(of))?;
        }
        consumer.assign(&assignment).map_err(|source| ClientError::Subscribe { topic: topic.to_owned(), source })?;
        Ok(Self { name: topic.to_owned(), consumer, unread, came_at: Instant::now(), has_said: false, tell })
    }

    /// Whether the end of every partition was met at least once.
    pub(super) fn at_end(&self) -> bool {
        self.unread.is_empty()
    }

    /// What `take` makes of the next message; `None` where none came within `wait`.
    pub(super) fn next<T>(
        &mut self,
        wait: Duration,
        take: impl FnOnce(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let polled = self.consumer.poll(wait);
        if !matches!(polled, None | Some(Err(KafkaError::MessageConsumption(_)))) {
            // A message, or the end of a partition: the brokers give what they have.
            self.came_at = Instant::now();
            self.consumer.context().forget();
        }
        match polled {
            None => {}
            Some(Ok(message)) => return Ok(take(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.unread.remove(&partition)),
            Some(Err(fault)) if fault.rdkafka_error_code().is_some_and(is_passing) => {}
            Some(Err(source)) => return Err(RequestError::Read { topic: self.name.clone(), source }),
        }
        self.mind_the_silence()?;
        Ok(None)
    }

    /// Says why nothing comes of what is known to be there, and gives up in the end. Who has met the end waits for what may never
    /// come.
    fn mind_the_silence(&mut self) -> Result<(), RequestError> {
        let silence = self.came_at.elapsed();
        if self.at_end() || silence < WAITS {
            return Ok(());
        }
        let heard = self.consumer.context().heard();
        if silence >= SILENCE_MAX {
            let reason = heard.unwrap_or_else(|| "its brokers give no reason".to_owned());
            return Err(RequestError::Silent { topic: self.name.clone(), waited: SILENCE_MAX, reason });
        }
        if let (Some(heard), false) = (heard, self.has_said) {
            (self.tell)(&Told::Waits(&format!("topic {} is not read: {heard}", self.name)));
            self.has_said = true;
        }
        Ok(())
    }
}

/// Asks again for as long as what is wrong may pass, such as a partition whose leader moves, or which has none yet as its topic is
/// new.
fn patiently<T>(ask: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(fault) if fault.may_pass() && began.elapsed() < METADATA_TIMEOUT => std::thread::sleep(AGAIN),
            ended => return ended,
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
