//! Takes artifacts out of a topic that no definition names: tombstones for each of their chunks, and compaction does the rest.
//!
//! Must not: judge which artifacts are needed; the caller has read every definition.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::chunks::Upload;
use super::{POLL, STORED, TopicStore, Writer, may_be_left};
use crate::artifacts::{ArtifactError, PRUNE_AFTER_MIN, Pruned};
use crate::kafka::partition_ids;
use crate::types::{Artifact, Chunks};

/// What is known of one upload.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// Its chunks that are there, by number: partition, offset, bytes.
    chunks: BTreeMap<u32, (i32, i64, u64)>,
    /// When the newest of them was written, in milliseconds; later than anything where that is not known.
    newest_ms: i64,
}

/// Everything in a topic.
#[derive(Debug, Default)]
struct Inventory(BTreeMap<Upload, Found>);

impl Inventory {
    fn take(&mut self, partition: i32, offset: i64, key: Option<&[u8]>, bytes: Option<u64>, at_ms: Option<i64>) {
        let Some((upload, number)) = key.and_then(Upload::of_key) else { return };
        let found = self.0.entry(upload).or_default();
        match bytes {
            Some(bytes) => {
                found.chunks.insert(number, (partition, offset, bytes));
                found.newest_ms = found.newest_ms.max(at_ms.unwrap_or(i64::MAX));
            }
            None => drop(found.chunks.remove(&number)),
        }
    }

    /// The uploads of which no address names anything, and that were written before `before_ms`.
    fn unnamed<'a>(&'a self, named: &'a [Chunks], before_ms: i64) -> impl Iterator<Item = (&'a Upload, &'a Found)> {
        let is_named = |found: &Found| {
            found.chunks.values().any(|(partition, offset, _)| {
                named.iter().any(|named| named.partition == *partition && (named.first..=named.last).contains(offset))
            })
        };
        self.0
            .iter()
            .filter(move |(_, found)| !found.chunks.is_empty() && found.newest_ms < before_ms && !is_named(found))
    }
}

impl TopicStore {
    /// The artifacts in `topic` of which no address among `named` names a record, and that were put in `age` ago or longer (at least
    /// [`PRUNE_AFTER_MIN`]), by the time of their records; one for each upload. With `remove` tombstones are written for them. The
    /// topic is read whole. Records that are no chunks stay. A topic that is not there has none.
    ///
    /// # Errors
    /// Where the topic cannot be read to its end within `patience`, or does not take a tombstone; some may have been written by then.
    pub fn prune(
        &self,
        topic: &str,
        named: &[Artifact],
        age: Duration,
        remove: bool,
        patience: Duration,
    ) -> Result<Vec<Pruned>, ArtifactError> {
        let addresses = named.iter().filter(|artifact| artifact.topic() == Some(topic)).map(|artifact| {
            artifact.uri.parse::<Chunks>().map_err(|_| ArtifactError::Address { uri: artifact.uri.clone() })
        });
        let named = addresses.collect::<Result<Vec<_>, _>>()?;
        let Some(inventory) = self.inventory(topic, patience)? else { return Ok(Vec::new()) };
        let age_ms = i64::try_from(age.max(PRUNE_AFTER_MIN).as_millis()).unwrap_or(i64::MAX);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_sub(age_ms);
        let mut pruned = Vec::new();
        let mut writer = None;
        for (upload, found) in inventory.unnamed(&named, before_ms) {
            for (number, (partition, _, _)) in found.chunks.iter().filter(|_| remove) {
                let to = match writer.take() {
                    Some(writer) => Writer::to(writer, *partition),
                    None => Writer::open(&self.connection, topic)?.to(*partition),
                };
                to.store(upload.key(*number).as_bytes(), None)?;
                writer = Some(to);
            }
            let bytes = found.chunks.values().map(|(_, _, bytes)| bytes).sum();
            pruned.push(Pruned { sha256: upload.sha256, bytes });
        }
        Ok(pruned)
    }

    fn inventory(&self, topic: &str, patience: Duration) -> Result<Option<Inventory>, ArtifactError> {
        let began = Instant::now();
        let fault = |reason: String| ArtifactError::Topic { uri: topic.to_owned(), reason, may_pass: true };
        let consumer = self.reader()?;
        let ids = partition_ids(consumer.client(), topic, STORED).map_err(|source| fault(source.to_string()))?;
        let Some(ids) = ids else { return Ok(None) };
        let mut assignment = TopicPartitionList::new();
        for partition in &ids {
            let added = assignment.add_partition_offset(topic, *partition, Offset::Beginning);
            added.map_err(|source| fault(source.to_string()))?;
        }
        consumer.assign(&assignment).map_err(|source| fault(source.to_string()))?;
        let (mut unread, mut inventory): (HashSet<i32>, _) = (ids.into_iter().collect(), Inventory::default());
        while !unread.is_empty() {
            if began.elapsed() > patience {
                return Err(fault(format!("the topic was not read to its end within {patience:?}")));
            }
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    let bytes = message.payload().map(|payload| payload.len() as u64);
                    let at_ms = message.timestamp().to_millis();
                    inventory.take(message.partition(), message.offset(), message.key(), bytes, at_ms);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(unread.remove(&partition)),
                Some(Err(source)) if may_be_left(&source) => {}
                Some(Err(source)) => return Err(fault(source.to_string())),
            }
        }
        Ok(Some(inventory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Sha256;

    #[test]
    fn what_is_old_and_named_by_nobody_goes_and_nothing_else() {
        let upload = |byte: u8| Upload { sha256: Sha256([byte; 32]), id: uuid::Uuid::from_u128(byte.into()) };
        let mut inventory = Inventory::default();
        let mut record = |offset: i64, byte: u8, number: u32, bytes: Option<u64>, at_ms: Option<i64>| {
            inventory.take(0, offset, Some(upload(byte).key(number).as_bytes()), bytes, at_ms);
        };
        // Two chunks each: named by its address, old, young at its end, of no known time, removed before.
        for byte in 1..=5_u8 {
            record(i64::from(byte) * 10, byte, 0, Some(3), Some(100));
            let at_ms = match byte {
                3 => Some(1_000),
                4 => None,
                _ => Some(100),
            };
            record(i64::from(byte) * 10 + 1, byte, 1, Some(4), at_ms);
        }
        record(60, 5, 0, None, Some(200));
        record(61, 5, 1, None, Some(200));
        inventory.take(0, 70, Some(b"a stranger"), Some(1), Some(0));
        let named = |partition| [Chunks { topic: "a".to_owned(), partition, first: 10, last: 11 }];
        let gone =
            |named: &[Chunks]| inventory.unnamed(named, 500).map(|(upload, _)| upload.sha256.0[0]).collect::<Vec<_>>();
        assert_eq!(gone(&named(0)), [2]);
        assert_eq!(gone(&named(1)), [1, 2], "another partition");
        let named = named(0);
        let (_, found) = inventory.unnamed(&named, 500).next().unwrap();
        assert_eq!(found.chunks, BTreeMap::from([(0, (0, 20, 3)), (1, (0, 21, 4))]));
    }
}
