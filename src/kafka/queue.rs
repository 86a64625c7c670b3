//! What a consumer's queue holds: records, ends of partitions, and errors, each with the partition that it is of.
//!
//! rdkafka's own poll says of an error neither partition nor offset, so that one partition's error looks like one of all; and
//! its headers panic at a name that is not UTF-8. Here the same queue of the same client is read through librdkafka's own
//! interface. Rebalances and errors of the client go to the client's context, as rdkafka does it. Must not: keep a record, or
//! decide what an error means.

#![expect(unsafe_code, reason = "rdkafka has no safe way to the partition of an error, nor to headers as bytes")]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as sys;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset as At, TopicPartitionList};

use super::headers::{self, Bounds, Headers, Overfull};
use super::unpack;

/// Longest text of librdkafka's about one error, in bytes.
const REASON_MAX: usize = 512;

/// Why a partition is not read. It says nothing of any other partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionError {
    /// Its number.
    pub partition: i32,
    /// Where: the first offset of the batch that cannot be read, or the offset that was asked for; negative where that is
    /// not known.
    pub offset: i64,
    /// librdkafka's or the broker's code.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words, at most 512 bytes; or what this program knows better.
    pub reason: String,
    /// Whether the batch unpacks to more than is taken: another attempt finds the same.
    pub is_oversized: bool,
}

/// What came out of the queue.
#[derive(Debug)]
pub enum Polled<'a> {
    /// A record.
    Record(Record<'a>),
    /// The end of a partition, where the client asks for it (`enable.partition.eof`).
    EndOf(i32),
    /// One partition is not read.
    Failed(PartitionError),
    /// An error of the whole client. Its context was told as well.
    Error(KafkaError),
}

/// A consumer's queue. One thread reads it; rdkafka's own poll may be used beside it.
pub struct Queue<C: ConsumerContext> {
    queue: NonNull<sys::rd_kafka_queue_t>,
    // Behind the queue, which must not outlive it.
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and from several at once; the consumer is both by itself.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext> Sync for Queue<C> {}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: the reference that `new` was given, given back once. The consumer is dropped after it.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

impl<C: ConsumerContext> Queue<C> {
    /// The queue of a consumer that has a group's name, as every consumer of this service has.
    ///
    /// # Errors
    /// Where it has none.
    pub fn of(consumer: &Arc<BaseConsumer<C>>) -> Result<Self, KafkaError> {
        // SAFETY: the client lives as long as the consumer, of which `Self` holds a reference.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        let queue = NonNull::new(queue)
            .ok_or_else(|| KafkaError::ClientCreation("the consumer has no queue: it needs a group.id".to_owned()))?;
        Ok(Self { queue, consumer: Arc::clone(consumer) })
    }

    /// Takes what there is, without waiting. None where there is nothing, or where it was of the context's concern alone.
    pub fn poll(&self) -> Option<Polled<'_>> {
        // SAFETY: the queue is alive.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
        let event = Event(NonNull::new(event)?);
        // SAFETY: the event is alive, here and below.
        match unsafe { sys::rd_kafka_event_type(event.ptr()) } {
            sys::RD_KAFKA_EVENT_FETCH => self.record(event),
            sys::RD_KAFKA_EVENT_ERROR => Some(self.error(&event)),
            sys::RD_KAFKA_EVENT_REBALANCE => {
                self.rebalance(&event);
                None
            }
            sys::RD_KAFKA_EVENT_LOG => {
                self.log(&event);
                None
            }
            // Statistics, and commits of offsets, of which nothing is made.
            _ => None,
        }
    }

    fn record(&self, event: Event) -> Option<Polled<'_>> {
        // SAFETY: a message that belongs to the event and lives as long; `Record` keeps both.
        let message = unsafe { sys::rd_kafka_event_message_next(event.ptr()) };
        let message = NonNull::new(message.cast_mut())?;
        // SAFETY: as above.
        let of = unsafe { message.as_ref() };
        if of.err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Some(Polled::Record(Record { message, _event: event, _consumer: PhantomData }));
        }
        let code = RDKafkaErrorCode::from(of.err);
        Some(Polled::Failed(PartitionError {
            partition: of.partition,
            offset: of.offset,
            code,
            reason: code.to_string(),
            is_oversized: false,
        }))
    }

    fn error(&self, event: &Event) -> Polled<'_> {
        // SAFETY: the event is alive, and so is what it answers with; the partition is given back once.
        let (code, reason, is_fatal, place) = unsafe {
            let place = NonNull::new(sys::rd_kafka_event_topic_partition(event.ptr()));
            let found = place.map(|place| (place.as_ref().partition, place.as_ref().offset));
            if let Some(place) = place {
                sys::rd_kafka_topic_partition_destroy(place.as_ptr());
            }
            let reason = text(sys::rd_kafka_event_error_string(event.ptr()));
            let is_fatal = sys::rd_kafka_event_error_is_fatal(event.ptr()) != 0;
            (RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.ptr())), reason, is_fatal, found)
        };
        match place {
            Some((partition, _)) if code == RDKafkaErrorCode::PartitionEOF => Polled::EndOf(partition),
            Some((partition, offset)) if !is_fatal => {
                let oversized =
                    (code == RDKafkaErrorCode::BadCompression).then(|| unpack::oversized(&reason)).flatten();
                let is_oversized = oversized.is_some();
                let reason = oversized.unwrap_or(reason);
                Polled::Failed(PartitionError { partition, offset, code, reason, is_oversized })
            }
            _ => {
                self.consumer.context().error(KafkaError::Global(code), &reason);
                let is = if is_fatal { KafkaError::MessageConsumptionFatal } else { KafkaError::MessageConsumption };
                Polled::Error(is(code))
            }
        }
    }

    fn rebalance(&self, event: &Event) {
        // SAFETY: the event is alive, and its list with it.
        let (code, listed) = unsafe {
            let list = sys::rd_kafka_event_topic_partition_list(event.ptr());
            (sys::rd_kafka_event_error(event.ptr()), list.as_ref().map(copied))
        };
        let mut partitions = listed.unwrap_or_else(TopicPartitionList::new);
        self.consumer.context().rebalance(&self.consumer, code, &mut partitions);
    }

    fn log(&self, event: &Event) {
        let (mut facility, mut line, mut level) = (ptr::null::<c_char>(), ptr::null::<c_char>(), 0);
        // SAFETY: the event is alive, and so is the text that it answers with.
        let (facility, line) = unsafe {
            if sys::rd_kafka_event_log(event.ptr(), &raw mut facility, &raw mut line, &raw mut level) != 0 {
                return;
            }
            (text(facility), text(line))
        };
        self.consumer.context().log(level_of(level), facility.trim(), line.trim());
    }
}

/// The level of a line, as syslog numbers them.
fn level_of(level: i32) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

/// A text of librdkafka's, cut at 512 bytes.
///
/// # Safety
/// `text` is null, or ends with a zero byte and lives as long as the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    let mut text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    text.truncate(text.floor_char_boundary(REASON_MAX));
    text
}

/// The same partitions and offsets.
fn copied(list: &sys::rd_kafka_topic_partition_list_t) -> TopicPartitionList {
    let count = usize::try_from(list.cnt).unwrap_or(0);
    let mut copy = TopicPartitionList::with_capacity(count);
    if list.elems.is_null() {
        return copy;
    }
    // SAFETY: librdkafka's list has `cnt` elements there, alive as long as `list` is borrowed; each has a topic's name.
    for element in unsafe { std::slice::from_raw_parts(list.elems, count) } {
        // SAFETY: as above.
        let topic = unsafe { CStr::from_ptr(element.topic) }.to_string_lossy();
        let mut added = copy.add_partition(&topic, element.partition);
        if element.offset >= 0 {
            // Every offset that is not negative is one.
            let _ = added.set_offset(At::Offset(element.offset));
        }
    }
    copy
}

/// An event; what it holds is freed with it.
#[derive(Debug)]
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    fn ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.ptr()) }
    }
}

/// A record in librdkafka's memory. Nothing of it is copied until it is asked for.
#[derive(Debug)]
pub struct Record<'a> {
    message: NonNull<sys::rd_kafka_message_t>,
    /// Owns the message.
    _event: Event,
    _consumer: PhantomData<&'a ()>,
}

impl Record<'_> {
    fn message(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: it lives as long as the event.
        unsafe { self.message.as_ref() }
    }

    /// The number of its partition.
    pub fn partition(&self) -> i32 {
        self.message().partition
    }

    /// Its own offset.
    pub fn offset(&self) -> i64 {
        self.message().offset
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: librdkafka's bytes live as long as the message.
        unsafe { bytes(message.key, message.key_len) }
    }

    /// Its value; None for a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: librdkafka's bytes live as long as the message.
        unsafe { bytes(message.payload, message.len) }
    }

    /// When it was made or stored, as the topic is set up, in milliseconds since the Unix epoch; None where it has no time.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        let has_none = kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (!has_none && time >= 0).then_some(time)
    }

    /// Its headers, in order, and how many were left out because their names are not UTF-8.
    ///
    /// # Errors
    /// Where there are more than `bounds` allows; nothing of them is copied then.
    pub fn headers(&self, bounds: Bounds) -> Result<(Headers, usize), Overfull> {
        // SAFETY: the message is alive.
        unsafe { headers::read_raw(self.message.as_ptr(), bounds) }
    }
}

/// `len` bytes; None where there are none to point at.
///
/// # Safety
/// They live as long as `'a`.
unsafe fn bytes<'a>(from: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from.cast(), len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_copied_with_its_offsets() {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("calls", 3, At::Offset(17)).unwrap();
        list.add_partition("other", 0);
        // SAFETY: the list is alive.
        let copy = copied(unsafe { &*list.ptr() });
        let seen: Vec<_> =
            copy.elements().iter().map(|it| (it.topic().to_owned(), it.partition(), it.offset())).collect();
        assert_eq!(seen, [("calls".to_owned(), 3, At::Offset(17)), ("other".to_owned(), 0, At::Invalid)]);
    }

    #[test]
    fn texts_are_cut_and_need_not_be_there() {
        let long = std::ffi::CString::new("é".repeat(400)).unwrap();
        // SAFETY: it ends with a zero byte and is alive.
        let (cut, none) = unsafe { (text(long.as_ptr()), text(ptr::null())) };
        assert_eq!((cut.len(), none.as_str()), (512, ""));
    }
}
