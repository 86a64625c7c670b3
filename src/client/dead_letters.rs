//! Reads the topic of dead letters, and puts letters back to where they came from.
//!
//! A message is put back in one transaction with a mark beside it, on the topic of dead letters itself: an empty record whose
//! header names the message by where it came from. So each goes back once, however often and from wherever that is asked
//! for, and however many letters there are of it: after a crash, or from several nodes. The mark lasts as long as the letter.
//! Two that put back at the same time have one transactional id: the later one fences the other.
//!
//! Must not: judge whether a letter is worth it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::events::Reading;
use super::tell::Tell;
use super::topic::{Start, Topic};
use super::{Client, RequestError};
use crate::codec::Event;
use crate::kafka::headers::{self, Headers};
use crate::kafka::{ClientError, Connection};
use crate::publish::{
    HEADER_ATTEMPTS, HEADER_BACKTRACE, HEADER_DETAIL, HEADER_FUNCTION, HEADER_INVOCATION_ID, HEADER_OFFSET,
    HEADER_OMITTED, HEADER_PARTITION, HEADER_PREFIX, HEADER_REASON, HEADER_STATUS, HEADER_TIMESTAMP, HEADER_TOPIC,
};
use crate::types::{Invocation, PreTrigger, Timestamp};

/// On a mark: which message went back, as [`Letter::message`] says it.
pub const HEADER_REDRIVEN: &str = "forewarm.dead-letter.redriven";
/// Letters that go back in one transaction (inclusive).
const BATCH: usize = 500;
const TRANSACTION: Duration = Duration::from_secs(30);

/// Where a letter stands on the topic of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
        let (partition, offset) = parts.ok_or_else(|| format!("{text:?} names no letter: give PARTITION:OFFSET"))?;
        Ok(Self { partition, offset })
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where it stands.
    pub id: LetterId,
    /// When it was written.
    pub at: Option<Timestamp>,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// All headers: the message's and those of the letter.
    pub headers: Headers,
    /// The message's value.
    pub payload: Option<Vec<u8>>,
    /// Whether it was put back.
    pub redriven: bool,
}

impl Letter {
    fn text(&self, header: &str) -> Option<&str> {
        headers::text(&self.headers, header)
    }

    /// The topic that the message came from.
    pub fn topic(&self) -> &str {
        self.text(HEADER_TOPIC).unwrap_or_default()
    }

    /// Where it stood there, as partition:offset.
    pub fn place(&self) -> String {
        format!("{}:{}", self.text(HEADER_PARTITION).unwrap_or("?"), self.text(HEADER_OFFSET).unwrap_or("?"))
    }

    /// The message that it was, as topic:partition:offset:timestamp: a topic that is made anew begins its offsets anew.
    pub fn message(&self) -> String {
        format!("{}:{}:{}", self.topic(), self.place(), self.text(HEADER_TIMESTAMP).unwrap_or("?"))
    }

    /// A short label of what was wrong.
    pub fn reason(&self) -> &str {
        self.text(HEADER_REASON).unwrap_or_default()
    }

    /// The same in a sentence.
    pub fn detail(&self) -> &str {
        self.text(HEADER_DETAIL).unwrap_or_default()
    }

    /// The function, where it was a call.
    pub fn function(&self) -> Option<&str> {
        self.text(HEADER_FUNCTION)
    }

    /// The call's id, where it was one.
    pub fn invocation_id(&self) -> Option<&str> {
        self.text(HEADER_INVOCATION_ID)
    }

    /// What its last attempt came to, and how many there were, where it was a call.
    pub fn failure(&self) -> Option<(&str, &str)> {
        self.text(HEADER_STATUS).zip(self.text(HEADER_ATTEMPTS))
    }

    /// The guest's backtrace, where there is one.
    pub fn backtrace(&self) -> Option<&str> {
        self.text(HEADER_BACKTRACE)
    }

    /// Whether its value was left out because it was too large for the topic; then it cannot be put back.
    pub fn is_cut(&self) -> bool {
        self.text(HEADER_OMITTED).is_some()
    }

    /// The message's own headers.
    pub fn message_headers(&self) -> Headers {
        self.headers.iter().filter(|(name, _)| !name.starts_with(HEADER_PREFIX)).cloned().collect()
    }
}

/// What the topic holds.
struct Read {
    letters: Vec<Letter>,
    /// Whether there are more than were asked for.
    more: bool,
    /// Messages that were put back.
    marks: BTreeSet<String>,
}

/// Reads every letter for which `wanted` holds, oldest first, at most `max`, and every mark.
///
/// # Errors
/// Where the topic cannot be read.
fn read(
    connection: &Connection,
    name: &str,
    tell: &Tell,
    max: usize,
    wanted: impl Fn(&Letter) -> bool,
) -> Result<Read, RequestError> {
    let mut topic = Topic::open(connection, name, "dead letters", Start::Beginning, Arc::clone(tell))?;
    let mut letters: Vec<Letter> = Vec::new();
    let mut marks = BTreeSet::new();
    let mut more = false;
    while !topic.at_end() {
        let came = topic.next(Duration::from_millis(250), |message| {
            let (headers, _) = headers::read(message);
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            Some(Letter {
                id: LetterId { partition: message.partition(), offset: message.offset() },
                at: message.timestamp().to_millis().map(Timestamp::from_millis),
                key: owned(message.key()),
                headers,
                payload: owned(message.payload()),
                redriven: false,
            })
        })?;
        let Some(letter) = came else { continue };
        if let Some(mark) = letter.text(HEADER_REDRIVEN) {
            marks.insert(mark.to_owned());
        } else if wanted(&letter) {
            // Every mark has to be seen, so reading goes on where no more letters are kept.
            if letters.len() < max { letters.push(letter) } else { more = true }
        }
    }
    for letter in &mut letters {
        letter.redriven = marks.contains(&letter.message());
    }
    letters.sort_by_key(|letter| (letter.at, letter.id));
    Ok(Read { letters, more, marks })
}

/// What came of putting letters back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Put back.
    pub letters: usize,
    /// Had been before, or are of a message that another letter puts back.
    pub before: usize,
    /// Without a value to put back.
    pub cut: usize,
    /// From topics that are not this service's.
    pub foreign: usize,
    /// Whether there are more than were asked for at once.
    pub more: bool,
}

impl Client {
    /// Dead letters for which `wanted` holds, oldest first, at most `max`; and whether there are more.
    ///
    /// # Errors
    /// Where the topic cannot be read.
    pub fn dead_letters(
        &self,
        max: usize,
        wanted: impl Fn(&Letter) -> bool,
    ) -> Result<(Vec<Letter>, bool), RequestError> {
        let Read { letters, more, .. } =
            read(&self.connection, &self.topics.dead_letters, &self.reading.tell, max, wanted)?;
        Ok((letters, more))
    }

    /// The call or the notice in a letter, as JSON; None where its value is none that can be read.
    pub fn event_in(&self, letter: &Letter) -> Option<String> {
        fn json<E: Event>(reading: &mut Reading, letter: &Letter) -> Option<String> {
            let event: E = reading.decode_value(letter.payload.as_deref()?, &letter.headers, Timestamp::ZERO).ok()?;
            serde_json::to_string(&event).ok()
        }
        let mut reading = self.reading.clone();
        if letter.topic() == self.topics.invocations {
            json::<Invocation>(&mut reading, letter)
        } else {
            json::<PreTrigger>(&mut reading, letter)
        }
    }

    /// Puts messages back to where they came from, each once: at most `max` of those for which `wanted` holds. The message is
    /// the same, and so is a call's id; it lies in the partition of its key, as any other message does.
    ///
    /// # Errors
    /// Where the brokers do not let this client make transactions, or one is not committed; then the last batch was not put
    /// back.
    pub fn redrive(
        &self,
        max: usize,
        dry_run: bool,
        wanted: impl Fn(&Letter) -> bool,
        mut say: impl FnMut(&Letter),
    ) -> Result<Redriven, RequestError> {
        let id = format!("{}-redrive", self.connection.group_id);
        // Before reading: whoever else is at it is fenced by this, so that no mark can come that is not seen.
        let producer = if dry_run { None } else { Some(self.transactional(&id)?) };
        let gone =
            RefCell::new(read(&self.connection, &self.topics.dead_letters, &self.reading.tell, 0, |_| false)?.marks);
        let own = self.tenants.with_topics().map(|tenant| &tenant.pre_triggers_topic);
        let topics: Vec<_> = [&self.topics.invocations, &self.topics.pre_triggers].into_iter().chain(own).collect();
        let skipped = RefCell::new(Redriven::default());
        let goes_back = |letter: &Letter| {
            let mut skipped = skipped.borrow_mut();
            let count = match letter {
                letter if !wanted(letter) => return false,
                letter if gone.borrow().contains(&letter.message()) => &mut skipped.before,
                letter if letter.is_cut() => &mut skipped.cut,
                letter if !topics.iter().any(|topic| *topic == letter.topic()) => &mut skipped.foreign,
                // Another letter of the same message is one too many, in this run as in the next.
                letter => return gone.borrow_mut().insert(letter.message()),
            };
            *count += 1;
            false
        };
        let (letters, more) = self.dead_letters(max, goes_back)?;
        let mut done = Redriven { more, ..skipped.into_inner() };
        for batch in letters.chunks(BATCH) {
            if let Some(producer) = &producer {
                self.put_back(producer, batch)
                    .map_err(|source| RequestError::Transaction { id: id.clone(), source })?;
            }
            batch.iter().for_each(&mut say);
            done.letters += batch.len();
        }
        Ok(done)
    }

    fn transactional(&self, id: &str) -> Result<BaseProducer, RequestError> {
        let failed = |source| ClientError::Transactions { id: id.to_owned(), source };
        let producer: BaseProducer =
            self.connection.transactional(id).create().map_err(|error| ClientError::create("redrive", &error))?;
        producer.init_transactions(TRANSACTION).map_err(failed)?;
        Ok(producer)
    }

    fn put_back(&self, producer: &BaseProducer, letters: &[Letter]) -> Result<(), KafkaError> {
        producer.begin_transaction()?;
        let stored = || {
            for letter in letters {
                let message_headers = letter.message_headers();
                let (key, payload) = (letter.key.as_deref(), letter.payload.as_deref());
                send(producer, letter.topic(), None, key, payload, &message_headers)?;
                let mark = [(HEADER_REDRIVEN.to_owned(), Some(letter.message().into_bytes()))];
                // Beside the letter, so that retention takes the letter first.
                send(producer, &self.topics.dead_letters, Some(letter.id.partition), key, None, &mark)?;
            }
            producer.commit_transaction(TRANSACTION)
        };
        stored().inspect_err(|_| {
            // What fails here is ended by the brokers when its time is over.
            let _ = producer.abort_transaction(TRANSACTION);
        })
    }
}

fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: Option<i32>,
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
    headers: &[(String, Option<Vec<u8>>)],
) -> Result<(), KafkaError> {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic);
    (record.partition, record.key, record.payload, record.headers) = (partition, key, payload, headers::write(headers));
    producer.send(record).map_err(|(error, _)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_where_it_stands() {
        let id = LetterId { partition: 3, offset: 41 };
        assert_eq!((id.to_string().as_str(), "3:41".parse()), ("3:41", Ok(id)));
        for text in ["3", "3:", ":41", "a:1", ""] {
            assert!(text.parse::<LetterId>().is_err(), "{text}");
        }
    }

    #[test]
    fn letters_of_one_message_name_it_alike() {
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let letter = |offset, at: &str| Letter {
            id: LetterId { partition: 0, offset },
            at: None,
            key: None,
            headers: vec![
                header(HEADER_TOPIC, "calls"),
                header(HEADER_PARTITION, "3"),
                header(HEADER_OFFSET, "41"),
                header(HEADER_TIMESTAMP, at),
            ],
            payload: None,
            redriven: false,
        };
        assert_eq!(letter(0, "7").message(), "calls:3:41:7");
        assert_eq!(letter(0, "7").message(), letter(1, "7").message());
        assert_ne!(letter(0, "7").message(), letter(0, "8").message());
    }

    #[test]
    fn the_message_loses_the_labels_of_the_letter_and_nothing_else() {
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let letter = Letter {
            id: LetterId { partition: 0, offset: 0 },
            at: None,
            key: None,
            headers: vec![header("traceparent", "00-1"), header(HEADER_REASON, "trap"), header(HEADER_FUNCTION, "f")],
            payload: None,
            redriven: false,
        };
        assert_eq!(letter.message_headers(), [header("traceparent", "00-1")]);
        assert_eq!((letter.reason(), letter.function(), letter.is_cut()), ("trap", Some("f"), false));
    }
}
