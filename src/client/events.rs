//! Reads events of one kind off a topic, in whatever format each is written: the one reader of everything that commands read.
//!
//! Must not: judge an event, or pass over in silence a record that it cannot read.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedMessage, Message};

use super::RequestError;
use super::tell::{Tell, Told, Unreadable};
use super::topic::{Start, Topic};
use crate::codec::{Codec, DecodeError, Event, ValueHeaders, WriterSchemas};
use crate::kafka::{Connection, headers};
use crate::types::{Headers, Timestamp};

/// How long a reader waits for schemas that its registry does not give at once, all in all.
const SCHEMAS_MAX: Duration = Duration::from_secs(15);
/// From one question for a schema to the next.
const SCHEMA_AGAIN: Duration = Duration::from_millis(50);

/// How records are made events.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) codec: Arc<Codec>,
    pub(super) writers: Arc<dyn WriterSchemas>,
    pub(super) tell: Tell,
    /// What is left of the time for schemas.
    patience: Duration,
}

impl Reading {
    pub(super) fn new(codec: Arc<Codec>, writers: Arc<dyn WriterSchemas>, tell: Tell) -> Self {
        Self { codec, writers, tell, patience: SCHEMAS_MAX }
    }

    /// The event in a message; `None` where it has none, which was told unless it is a tombstone.
    pub(super) fn event<E: Event>(&mut self, message: &BorrowedMessage<'_>) -> Option<E> {
        message.payload()?;
        self.decode(message).inspect_err(|fault| self.unread(message, fault.to_string())).ok()
    }

    /// The event in a message's value, which is not null. Waits for its schema, for as long as there is time left for schemas.
    pub(super) fn decode<E: Event>(&mut self, message: &BorrowedMessage<'_>) -> Result<E, DecodeError> {
        let (headers, _) = headers::read(message);
        let recorded_at = message.timestamp().to_millis().map_or(Timestamp::ZERO, Timestamp::from_millis);
        self.decode_value(message.payload().unwrap_or_default(), &headers, recorded_at)
    }

    /// The same of a value with its headers.
    pub(super) fn decode_value<E: Event>(
        &mut self,
        bytes: &[u8],
        headers: &Headers,
        recorded_at: Timestamp,
    ) -> Result<E, DecodeError> {
        let of_value = ValueHeaders::of(|name| headers::value(headers, name));
        loop {
            match self.codec.decode_recorded(bytes, of_value, &*self.writers, recorded_at) {
                Err(fault) if fault.retryable() && !self.patience.is_zero() => {
                    let asked = Instant::now();
                    std::thread::sleep(SCHEMA_AGAIN);
                    self.patience = self.patience.saturating_sub(asked.elapsed());
                }
                ended => return ended,
            }
        }
    }

    /// Tells of a record that is left out.
    pub(super) fn unread(&self, message: &BorrowedMessage<'_>, reason: String) {
        let (partition, offset) = (message.partition(), message.offset());
        (self.tell)(&Told::Unread(&Unreadable { topic: message.topic().to_owned(), partition, offset, reason }));
    }
}

/// The events of a topic, as they come.
pub struct Events<E> {
    topic: Topic,
    reading: Reading,
    kind: PhantomData<fn() -> E>,
}

/// An event as it came.
#[derive(Clone, Debug)]
pub struct Came<E> {
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// The message's headers.
    pub headers: headers::Headers,
    /// When it was written, as the record says.
    pub at: Option<Timestamp>,
    /// The partition and the offset where it stands.
    pub place: (i32, i64),
    /// The event.
    pub event: E,
}

impl<E: Event> Events<E> {
    pub(super) fn open(
        connection: &Connection,
        topic: &str,
        role: &'static str,
        from: Start,
        reading: Reading,
    ) -> Result<Self, RequestError> {
        let topic = Topic::open(connection, topic, role, from, Arc::clone(&reading.tell))?;
        Ok(Self { topic, reading, kind: PhantomData })
    }

    /// Whether the end of every partition was met at least once.
    pub fn at_end(&self) -> bool {
        self.topic.at_end()
    }

    /// The next event, or `None` where none came within `wait`. What is none is told and passed over; tombstones are passed over.
    ///
    /// # Errors
    /// Where reading fails for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Came<E>>, RequestError> {
        let reading = &mut self.reading;
        self.topic.next(wait, |message| {
            let event = reading.event(message)?;
            let (headers, _) = headers::read(message);
            Some(Came {
                key: message.key().map(<[u8]>::to_vec),
                headers,
                at: message.timestamp().to_millis().map(Timestamp::from_millis),
                place: (message.partition(), message.offset()),
                event,
            })
        })
    }
}
