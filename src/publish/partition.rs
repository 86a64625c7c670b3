//! Which partition a record goes to: murmur2 of its key, as Java's producers have it; and of how many, as librdkafka last said.
//!
//! Must not: send, or choose for a record without a key; the publisher chooses there, by what is under way.

use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::producer::{PARTITION_UA, Partitioner};

use super::{Destination, Topics};

/// How long a number of partitions is believed without being heard again. Topics grow, and are noticed to within 10 s
/// (`topic.metadata.refresh.interval.ms`) anyway.
const BELIEVED: Duration = Duration::from_secs(10);

/// The partition of a record with this key in a topic of `partitions` (at least 1).
pub(super) fn of_key(key: &[u8], partitions: i32) -> i32 {
    let hash = i32::try_from(murmur2(key) & 0x7fff_ffff).unwrap_or(0);
    hash % partitions.max(1)
}

/// murmur2, 32 bits, with the seed of Kafka's Java client.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // Kafka takes a length of 32 bits; a record is never longer.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut words = bytes.chunks_exact(4);
    for word in words.by_ref() {
        let mut word = word.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte)).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash = (hash ^ rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte))).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// What is known of one topic.
#[derive(Debug, Default)]
struct Known {
    /// 0 where nothing is.
    partitions: AtomicI32,
    /// When that was heard, in milliseconds since the start.
    heard_at_ms: AtomicU64,
}

/// Chooses partitions for librdkafka, and remembers how many a topic has.
#[derive(Debug)]
pub(super) struct Partitions {
    topics: Topics,
    started: Instant,
    known: [Known; Destination::ALL.len()],
    /// Where the search for a partition with a leader begins for the next record that has no partition at all.
    next: AtomicUsize,
}

impl Partitions {
    pub(super) fn new(topics: Topics) -> Self {
        Self { topics, started: Instant::now(), known: Default::default(), next: AtomicUsize::new(0) }
    }

    /// The first destination with the same topic.
    pub(super) fn same_topic(&self, destination: Destination) -> Destination {
        self.of_topic(self.topics.of(destination)).unwrap_or(destination)
    }

    fn of_topic(&self, topic: &str) -> Option<Destination> {
        Destination::ALL.into_iter().find(|destination| self.topics.of(*destination) == topic)
    }

    /// How many partitions the topic of a destination has; None where that was never heard.
    pub(super) fn count(&self, destination: Destination) -> Option<i32> {
        let partitions = self.known(destination).partitions.load(Ordering::Relaxed);
        (partitions > 0).then_some(partitions)
    }

    /// Whether that number may be out of date, so that librdkafka should be let choose once, which says it anew.
    pub(super) fn is_stale(&self, destination: Destination) -> bool {
        let heard_at = Duration::from_millis(self.known(destination).heard_at_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard_at) > BELIEVED
    }

    fn known(&self, destination: Destination) -> &Known {
        &self.known[self.same_topic(destination) as usize]
    }
}

impl Partitioner for Partitions {
    fn partition(&self, topic: &str, key: Option<&[u8]>, count: i32, has_leader: impl Fn(i32) -> bool) -> i32 {
        let Ok(of) = usize::try_from(count) else { return PARTITION_UA };
        if of == 0 {
            return PARTITION_UA;
        }
        if let Some(destination) = self.of_topic(topic) {
            let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.known[destination as usize].partitions.store(count, Ordering::Relaxed);
            self.known[destination as usize].heard_at_ms.store(millis, Ordering::Relaxed);
        }
        if let Some(key) = key {
            return of_key(key, count);
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..of).filter_map(|step| i32::try_from((first.wrapping_add(step)) % of).ok());
        let mut in_turn = in_turn.peekable();
        let fallback = in_turn.peek().copied().unwrap_or(0);
        in_turn.find(|partition| has_leader(*partition)).unwrap_or(fallback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `org.apache.kafka.common.utils.UtilsTest`.
    #[test]
    fn hashes_are_those_of_the_java_client() {
        let vectors = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in vectors {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
        assert_eq!(of_key(b"abc", 4), 479_470_107 % 4);
        assert_eq!(of_key(b"21", 1_000), (-973_932_308_i32 & 0x7fff_ffff) % 1_000);
    }

    #[test]
    fn a_topics_number_of_partitions_is_what_was_said_last() {
        let topics = Topics { results: "r".to_owned(), dead_letters: "r".to_owned(), ..Topics::default() };
        let partitions = Partitions::new(topics);
        assert_eq!(partitions.count(Destination::DeadLetters), None);
        assert_eq!(partitions.partition("r", Some(b"abc"), 4, |_| true), 3);
        assert_eq!(partitions.count(Destination::DeadLetters), Some(4), "the topic is the same");
        partitions.partition("r", Some(b"abc"), 6, |_| true);
        assert_eq!(partitions.count(Destination::Results), Some(6));
        assert_eq!(partitions.count(Destination::GuestNotices), None);
        assert_eq!(partitions.partition("r", Some(b"abc"), 0, |_| true), PARTITION_UA);
    }

    #[test]
    fn without_a_key_partitions_with_a_leader_take_turns() {
        let partitions = Partitions::new(Topics::default());
        let taken = || partitions.partition("other", None, 3, |partition| partition != 1);
        assert_eq!([taken(), taken(), taken(), taken()], [0, 2, 2, 0]);
        assert_eq!(partitions.partition("other", None, 3, |_| false), 1);
    }
}
