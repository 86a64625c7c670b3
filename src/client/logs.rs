//! Reads the topic of functions' logs.
//!
//! Must not: judge a line, or escape it.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::message::Message;

use super::RequestError;
use super::topic::{Start, Topic};
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::{Connection, headers};
use crate::types::FunctionLog;

/// The lines, as they come.
pub struct Logs {
    name: String,
    topic: Topic,
    codec: Arc<Codec>,
    /// Records that are no line, or none that can be read here.
    pub unreadable: u64,
}

impl Logs {
    pub(super) fn open(
        connection: &Connection,
        topic: &str,
        from: Start,
        codec: Arc<Codec>,
    ) -> Result<Self, RequestError> {
        let reader = Topic::open(connection, topic, "function logs", from)?;
        Ok(Self { name: topic.to_owned(), topic: reader, codec, unreadable: 0 })
    }

    /// Whether the end of every partition was met at least once.
    pub fn at_end(&self) -> bool {
        self.topic.at_end()
    }

    /// The next line, or `None` where none came within `wait`. What is no line is passed over with a warning, and counted.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<FunctionLog>, RequestError> {
        let Self { name, topic, codec, unreadable } = self;
        topic.next(name, wait, |message| {
            let (headers, _) = headers::read(message);
            let content_type = headers::text(&headers, "content-type");
            let bytes = message.payload().unwrap_or_default();
            match codec.decode(bytes, content_type, &NoSchemaRegistry) {
                Ok(line) => Some(line),
                Err(fault) => {
                    tracing::warn!(partition = message.partition(), offset = message.offset(), %fault, "not a line");
                    *unreadable += 1;
                    None
                }
            }
        })
    }
}
