//! Reads the topic of function statuses: what the whole group says of its functions.
//!
//! Must not: judge a status; `types::Group` says which ones count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::Message;

use super::events::Reading;
use super::topic::{Start, Topic};
use super::{RequestError, tell};
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::Connection;
use crate::types::{FunctionStatus, Group};

/// How long one look for records waits.
const POLL: Duration = Duration::from_millis(100);

/// The topic, read from its beginning on, and what it comes to.
pub struct Statuses {
    topic: Topic,
    reading: Reading,
    /// What the group says, as far as it was read.
    pub group: Group,
}

/// What a record is.
enum Record {
    Said(Box<FunctionStatus>),
    Forgotten(Vec<u8>),
    /// None that is known.
    Stranger,
}

impl Statuses {
    /// Begins to read what this service writes.
    ///
    /// # Errors
    /// Where the topic is not there or cannot be read.
    pub fn open(connection: &Connection, topic: &str, codec: Arc<Codec>) -> Result<Self, RequestError> {
        Self::open_with(connection, topic, Reading::new(codec, Arc::new(NoSchemaRegistry), tell::log()))
    }

    pub(super) fn open_with(connection: &Connection, topic: &str, reading: Reading) -> Result<Self, RequestError> {
        let tell = Arc::clone(&reading.tell);
        let topic = Topic::open(connection, topic, "function status", Start::Beginning, tell)?;
        Ok(Self { topic, reading, group: Group::default() })
    }

    /// Whether the end of the topic was met at least once.
    pub fn at_end(&self) -> bool {
        self.topic.at_end()
    }

    /// Reads until the end was met, for at most `timeout`; answers whether it was.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn read_to_end(&mut self, timeout: Duration) -> Result<bool, RequestError> {
        let began = Instant::now();
        while !self.at_end() && began.elapsed() < timeout {
            self.next(POLL)?;
        }
        Ok(self.at_end())
    }

    /// Takes the next record in, where one comes within `wait`; answers whether one came.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn next(&mut self, wait: Duration) -> Result<bool, RequestError> {
        let reading = &mut self.reading;
        let came = self.topic.next(wait, |message| {
            let key = message.key().unwrap_or_default();
            if message.payload().is_none() {
                return Some(Record::Forgotten(key.to_vec()));
            }
            let Some(status) = reading.event::<FunctionStatus>(message) else { return Some(Record::Stranger) };
            if status.key() != key {
                reading.unread(message, "its key is not that of its node and function".to_owned());
                return Some(Record::Stranger);
            }
            Some(Record::Said(Box::new(status)))
        })?;
        match came {
            Some(Record::Said(status)) => self.group.take(*status),
            Some(Record::Forgotten(key)) => self.group.forget(&key),
            Some(Record::Stranger) => self.group.passed_over += 1,
            None => return Ok(false),
        }
        Ok(true)
    }
}
