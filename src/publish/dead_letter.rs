//! The record that a message becomes which is no event, or whose call failed for good: as it came, with headers that say
//! where from and why.
//!
//! Must not: judge a message, or send anything.

use std::fmt::Display;

use super::{Destination, Record};
use crate::kafka::headers::Headers;
use crate::types::{Offset, Timestamp};

/// What our headers begin with. A message that comes with such headers was a dead letter before and has been put back;
/// they are replaced.
pub const HEADER_PREFIX: &str = "forewarm.dead-letter.";
/// The topic that the message came from.
pub const HEADER_TOPIC: &str = "forewarm.dead-letter.topic";
/// Its partition.
pub const HEADER_PARTITION: &str = "forewarm.dead-letter.partition";
/// Its offset.
pub const HEADER_OFFSET: &str = "forewarm.dead-letter.offset";
/// Its timestamp in milliseconds since the Unix epoch; absent where it has none.
pub const HEADER_TIMESTAMP: &str = "forewarm.dead-letter.timestamp";
/// A short label of what is wrong, of a closed set.
pub const HEADER_REASON: &str = "forewarm.dead-letter.reason";
/// A sentence for people.
pub const HEADER_DETAIL: &str = "forewarm.dead-letter.detail";
/// The node that refused it.
pub const HEADER_NODE: &str = "forewarm.dead-letter.node";
/// When it did, in milliseconds since the Unix epoch.
pub const HEADER_AT: &str = "forewarm.dead-letter.at";
/// Bytes of the value that were left out, because the whole was larger than the topic takes, or the message more than one may
/// be. The message itself still stands where topic, partition and offset say, as long as its topic keeps it.
pub const HEADER_OMITTED: &str = "forewarm.dead-letter.payload-bytes-omitted";

/// Of a call that failed: its function.
pub const HEADER_FUNCTION: &str = "forewarm.dead-letter.function";
/// Of a call that failed: its id.
pub const HEADER_INVOCATION_ID: &str = "forewarm.dead-letter.invocation-id";
/// Of a call that failed: what its last attempt came to.
pub const HEADER_STATUS: &str = "forewarm.dead-letter.status";
/// Of a call that failed: how often it was tried.
pub const HEADER_ATTEMPTS: &str = "forewarm.dead-letter.attempts";
/// Of a call that failed: the guest's backtrace; absent where there is none.
pub const HEADER_BACKTRACE: &str = "forewarm.dead-letter.backtrace";

/// Longest backtrace, in bytes (inclusive); the rest is cut.
const BACKTRACE_BYTES_MAX: usize = 8_192;
/// Longest detail, in bytes (inclusive); the rest is cut.
const DETAIL_BYTES_MAX: usize = 1_024;

/// A call that failed as often as its function allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCall<'a> {
    /// Its function.
    pub function: &'a str,
    /// Its id.
    pub invocation_id: &'a str,
    /// What its last attempt came to.
    pub status: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// The guest's backtrace, where there is one.
    pub backtrace: Option<&'a str>,
}

/// A message that is no event, or a call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The topic that it came from.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp; None where it has none.
    pub timestamp: Option<Timestamp>,
    /// Its key, as it came.
    pub key: Option<Vec<u8>>,
    /// Its headers, as they came.
    pub headers: Headers,
    /// Its value, as it came; None for a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Where its value was not taken: its bytes, as far as they are known.
    pub omitted: Option<usize>,
    /// A short label of what is wrong.
    pub reason: &'a str,
    /// A sentence for people.
    pub detail: &'a str,
    /// The call, where it was one.
    pub call: Option<FailedCall<'a>>,
    /// This node.
    pub node: &'a str,
    /// Now.
    pub at: Timestamp,
}

impl DeadLetter<'_> {
    /// The record to publish.
    pub fn into_record(self) -> Record {
        let mut headers = self.headers;
        headers.retain(|(name, _)| !name.starts_with(HEADER_PREFIX));
        let mut add =
            |name: &str, value: &dyn Display| headers.push((name.to_owned(), Some(value.to_string().into_bytes())));
        add(HEADER_TOPIC, &self.topic);
        add(HEADER_PARTITION, &self.partition);
        add(HEADER_OFFSET, &self.offset);
        if let Some(timestamp) = self.timestamp {
            add(HEADER_TIMESTAMP, &timestamp.as_millis());
        }
        add(HEADER_REASON, &self.reason);
        add(HEADER_DETAIL, &&self.detail[..self.detail.floor_char_boundary(DETAIL_BYTES_MAX)]);
        if let Some(FailedCall { function, invocation_id, status, attempts, backtrace }) = &self.call {
            add(HEADER_FUNCTION, function);
            add(HEADER_INVOCATION_ID, invocation_id);
            add(HEADER_STATUS, status);
            add(HEADER_ATTEMPTS, attempts);
            if let Some(backtrace) = backtrace {
                add(HEADER_BACKTRACE, &&backtrace[..backtrace.floor_char_boundary(BACKTRACE_BYTES_MAX)]);
            }
        }
        if let Some(bytes) = self.omitted {
            add(HEADER_OMITTED, &bytes);
        }
        add(HEADER_NODE, &self.node);
        add(HEADER_AT, &self.at.as_millis());
        Record { destination: Destination::DeadLetters, key: self.key, headers, payload: self.payload }
    }
}

/// The same dead letter with less in it, for one that is larger than its topic takes: without its value, and where that is
/// gone already, without the sender's headers and key. None where only our own headers are left.
pub(super) fn smaller(mut record: Record) -> Option<Record> {
    if let Some(payload) = record.payload.take() {
        record.headers.push((HEADER_OMITTED.to_owned(), Some(payload.len().to_string().into_bytes())));
        return Some(record);
    }
    let before = record.headers.len();
    record.headers.retain(|(name, _)| name.starts_with(HEADER_PREFIX));
    let had_key = record.key.take().is_some();
    (had_key || record.headers.len() < before).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter<'static> {
        DeadLetter {
            topic: "invocations",
            partition: 3,
            offset: Offset(41),
            timestamp: Some(Timestamp::from_millis(1_700_000_000_000)),
            key: Some(b"k".to_vec()),
            headers: vec![("a".to_owned(), Some(b"1".to_vec())), (HEADER_REASON.to_owned(), Some(b"before".to_vec()))],
            payload: Some(vec![0xff; 7]),
            omitted: None,
            reason: "malformed",
            detail: "malformed event",
            call: None,
            node: "node-1",
            at: Timestamp::from_millis(1_700_000_000_500),
        }
    }

    fn text(record: &Record, name: &str) -> Vec<String> {
        let of_name = record.headers.iter().filter(|(header, _)| header == name);
        of_name.map(|(_, value)| String::from_utf8(value.clone().unwrap()).unwrap()).collect()
    }

    #[test]
    fn the_message_is_kept_as_it_came_and_old_labels_are_replaced() {
        let record = letter().into_record();
        assert_eq!((record.destination, record.key.as_deref()), (Destination::DeadLetters, Some(&b"k"[..])));
        assert_eq!(record.payload, Some(vec![0xff; 7]));
        assert_eq!(text(&record, "a"), ["1"]);
        assert_eq!(text(&record, HEADER_TOPIC), ["invocations"]);
        assert_eq!(text(&record, HEADER_PARTITION), ["3"]);
        assert_eq!(text(&record, HEADER_OFFSET), ["41"]);
        assert_eq!(text(&record, HEADER_TIMESTAMP), ["1700000000000"]);
        assert_eq!(text(&record, HEADER_REASON), ["malformed"]);
        assert_eq!(text(&record, HEADER_NODE), ["node-1"]);
        assert_eq!(text(&record, HEADER_AT), ["1700000000500"]);
        assert_eq!(record.headers.len(), 9);
    }

    #[test]
    fn a_call_that_failed_says_which_and_how_often() {
        let backtrace = "b".repeat(9_000);
        let call = FailedCall {
            function: "resize",
            invocation_id: "i-1",
            status: "trap",
            attempts: 3,
            backtrace: Some(&backtrace),
        };
        let record = DeadLetter { call: Some(call), ..letter() }.into_record();
        let said =
            [HEADER_FUNCTION, HEADER_INVOCATION_ID, HEADER_STATUS, HEADER_ATTEMPTS].map(|name| text(&record, name));
        assert_eq!(said, [["resize"], ["i-1"], ["trap"], ["3"]]);
        assert_eq!(text(&record, HEADER_BACKTRACE)[0].len(), 8_192);
        assert_eq!(record.payload, Some(vec![0xff; 7]), "the message as it came");
    }

    #[test]
    fn one_that_is_too_large_gives_up_its_value_first_and_never_its_labels() {
        let first = smaller(letter().into_record()).unwrap();
        assert_eq!((first.payload.as_deref(), text(&first, HEADER_OMITTED)), (None, vec!["7".to_owned()]));
        assert_eq!(text(&first, "a"), ["1"]);
        let second = smaller(first).unwrap();
        assert_eq!((second.key.as_deref(), text(&second, "a").len(), second.headers.len()), (None, 0, 9));
        assert_eq!(smaller(second), None);
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let detail = "é".repeat(600);
        let record = DeadLetter { detail: &detail, ..letter() }.into_record();
        assert_eq!(text(&record, HEADER_DETAIL)[0].len(), 1_024);
        let detail = format!("x{detail}");
        let record = DeadLetter { detail: &detail, ..letter() }.into_record();
        assert_eq!(text(&record, HEADER_DETAIL)[0].len(), 1_023);
    }
}
