//! What stands under one function's name in the topic of functions.
//!
//! Other functions' records are passed over unread, so that whoever may read the topic need not understand them. Must not: judge a
//! definition; the registry does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::{BorrowedMessage, Message};

use super::RequestError;
use super::events::Reading;
use super::topic::{Start, Topic};
use crate::kafka::{ClientError, Connection};
use crate::types::{FunctionDefinition, FunctionName};

/// How long one look for records waits.
const POLL: Duration = Duration::from_millis(100);

/// See the head of this file.
#[derive(Debug)]
pub enum Registered {
    /// Nothing: it was never defined, or was removed.
    No,
    /// A definition.
    Yes(Box<FunctionDefinition>),
    /// A record that is no definition, or none that can be read here; with the reason.
    Unreadable(String),
}

pub(super) fn read(
    connection: &Connection,
    topic: &str,
    function: &FunctionName,
    mut reading: Reading,
    patience: Duration,
) -> Result<Registered, RequestError> {
    let began = Instant::now();
    let mut reader = match Topic::open(connection, topic, "functions", Start::Beginning, Arc::clone(&reading.tell)) {
        // Nobody has defined anything yet.
        Err(RequestError::Client(ClientError::TopicMissing { .. })) => return Ok(Registered::No),
        opened => opened?,
    };
    // Within a partition the later record counts, and across partitions, where some were added, the one of the later time.
    let mut newest: Option<(i32, Option<i64>, Registered)> = None;
    while !reader.at_end() {
        if began.elapsed() > patience {
            return Err(RequestError::Unread { topic: topic.to_owned(), waited: patience });
        }
        let came = reader.next(POLL, |message| {
            let is_it = message.key() == Some(function.as_str().as_bytes());
            is_it.then(|| (message.partition(), message.timestamp().to_millis(), record(message, &mut reading)))
        })?;
        let Some((partition, at_ms, record)) = came else { continue };
        let is_older = newest.as_ref().is_some_and(|(place, newest_ms, _)| *place != partition && at_ms < *newest_ms);
        if !is_older {
            newest = Some((partition, at_ms, record));
        }
    }
    Ok(newest.map_or(Registered::No, |(_, _, record)| record))
}

fn record(message: &BorrowedMessage<'_>, reading: &mut Reading) -> Registered {
    if message.payload().is_none() {
        return Registered::No;
    }
    match reading.decode(message) {
        Ok(definition) => Registered::Yes(Box::new(definition)),
        Err(fault) => Registered::Unreadable(fault.to_string()),
    }
}
