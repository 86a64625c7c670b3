//! Reads the `results` topic.
//!
//! Must not: judge a result.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::message::Message;

use super::RequestError;
use super::topic::{Start, Topic};
use crate::codec::{Codec, NoSchemaRegistry};
use crate::kafka::{Connection, headers};
use crate::types::InvocationResult;

/// The results, as they come.
pub struct Results {
    name: String,
    topic: Topic,
    codec: Arc<Codec>,
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
        Ok(Self { name: topic.to_owned(), topic: Topic::open(connection, topic, "results", from)?, codec })
    }

    /// Whether the end of every partition was met at least once.
    pub fn at_end(&self) -> bool {
        self.topic.at_end()
    }

    /// The next result, or `None` where none came within `wait`. What is no result is passed over with a warning.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Came>, RequestError> {
        let codec = &self.codec;
        self.topic.next(&self.name, wait, |message| {
            let (headers, _) = headers::read(message);
            let content_type = headers::text(&headers, "content-type");
            let bytes = message.payload().unwrap_or_default();
            match codec.decode::<InvocationResult>(bytes, content_type, &NoSchemaRegistry) {
                Ok(result) => Some(Came { key: message.key().map(<[u8]>::to_vec), headers, result }),
                Err(fault) => {
                    tracing::warn!(partition = message.partition(), offset = message.offset(), %fault, "not a result");
                    None
                }
            }
        })
    }
}
