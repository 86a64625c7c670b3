//! Artifacts by a topic, with librdkafka's mock cluster as the brokers: what was put in comes out by its offsets, and what is missing,
//! strange, too much or of another topic does not. Compaction is for real brokers to show.

#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::num::NonZeroU64;
use std::time::Duration;

use forewarm::artifacts::{ArtifactError, ArtifactStore, PRUNE_AFTER_MIN, TopicStore};
use forewarm::config::{self, Config, NamedTenant};
use forewarm::kafka::Connection;
use forewarm::types::{Artifact, Chunks, Sha256};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

const PATIENCE: Duration = Duration::from_secs(60);
const UPLOAD: &str = "0190f1f4-7c4d-7000-8000-000000000001";

struct Shop {
    mock: MockCluster<'static, DefaultProducerContext>,
    config: Config,
    connection: Connection,
}

impl Shop {
    fn open() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let mut config: Config = config::load(None, std::iter::empty()).unwrap();
        config.tenants.named = vec![NamedTenant {
            tenant: "acme".to_owned(),
            prefix: "acme/".to_owned(),
            artifacts_topic: "acme.artifacts".to_owned(),
            ..NamedTenant::default()
        }];
        // Partitions that there are not are waited for.
        config.artifacts.read_timeout = Duration::from_secs(10);
        for topic in ["artifacts", "acme.artifacts", "other"] {
            mock.create_topic(topic, 1, 1).unwrap();
        }
        // The mock cluster answers a fetch only when this time is over.
        let properties = [("fetch.wait.max.ms".to_owned(), "10".to_owned())].into();
        let connection =
            Connection { bootstrap_servers: mock.bootstrap_servers(), properties, ..Connection::default() };
        Self { mock, config, connection }
    }

    fn store(&self) -> TopicStore {
        TopicStore::new(&self.config, self.connection.clone())
    }

    /// Writes records as anybody may.
    fn write(&self, records: &[(String, Option<&[u8]>)]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.mock.bootstrap_servers()).create().unwrap();
        for (key, value) in records {
            let mut record = BaseRecord::to("artifacts").partition(0).key(key);
            if let Some(value) = value {
                record = record.payload(*value);
            }
            producer.send(record).unwrap();
            producer.flush(PATIENCE).unwrap();
        }
    }

    fn fetch(&self, first: i64, last: i64, sha256: Sha256) -> Result<Vec<u8>, ArtifactError> {
        let uri = Chunks { topic: "artifacts".to_owned(), partition: 0, first, last }.to_string();
        self.store().fetch(&Artifact { uri, sha256 })
    }
}

fn key(sha256: Sha256, number: u32) -> String {
    format!("{sha256}/{UPLOAD}/{number}")
}

#[test]
fn what_was_put_in_comes_out_by_its_offsets() {
    let shop = Shop::open();
    let store = shop.store();
    let large: Vec<u8> = (0..2_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    let artifacts = [b"small".as_slice(), &large, b"small"].map(|bytes| store.put("artifacts", bytes).unwrap());
    let uris = artifacts.each_ref().map(|artifact| artifact.uri.as_str());
    assert_eq!(uris, ["kafka:artifacts/0/0-0", "kafka:artifacts/0/1-3", "kafka:artifacts/0/4-4"]);
    let fetched = artifacts.each_ref().map(|artifact| store.fetch(artifact).unwrap());
    assert!(fetched[0] == b"small" && fetched[1] == large && fetched[2] == b"small");
    // The tenant's own topic is a place of its own.
    let own = store.put("acme.artifacts", b"small").unwrap();
    assert_eq!(own.uri, "kafka:acme.artifacts/0/0-0");
    assert_eq!(store.fetch(&own).unwrap(), b"small");
    assert!(own.code_key() != artifacts[0].code_key() && artifacts[0].code_key() == artifacts[2].code_key());
}

#[test]
fn a_span_that_is_not_one_artifact_is_refused() {
    let shop = Shop::open();
    let (ours, other) = (Sha256::of(b"abcd"), Sha256::of(b"other"));
    shop.write(&[
        (key(ours, 0), Some(b"ab")),
        ("a stranger".to_owned(), Some(b"xx")),
        (key(other, 1), Some(b"yy")),
        (key(ours, 1), Some(b"cd")),
        (key(other, 0), Some(b"forged")),
        (key(ours, 3), Some(b"late")),
    ]);
    assert_eq!(shop.fetch(0, 3, ours).unwrap(), b"abcd", "records of others lie between");
    let refused = |first: i64, last: i64, sha256: Sha256, words: &str| {
        let fault = shop.fetch(first, last, sha256).unwrap_err();
        assert!(!fault.retryable() && fault.to_string().contains(words), "{first}-{last}: {fault}");
    };
    refused(1, 3, ours, "offset 1 is no chunk");
    refused(0, 1, ours, "offset 1 is no chunk");
    refused(0, 5, ours, "chunk 2");
    refused(0, 3, other, "offset 0 is no chunk");
    refused(4, 4, other, "another one");
    refused(0, 0, ours, "another one");
    // What is beyond the end may come.
    for (first, last) in [(0, 6), (100, 101), (4_000_000, 4_000_001)] {
        let fault = shop.fetch(first, last, ours).unwrap_err();
        assert!(fault.retryable() && fault.to_string().contains("not there yet"), "{fault}");
    }
    // Topics that the configuration does not name, and addresses that are none, are not read at all.
    for uri in ["kafka:other/0/0-0", "kafka:functions/0/0-0", "kafka:artifacts/0/3-0", "kafka:artifacts/0/0-9999"] {
        let fault = shop.store().fetch(&Artifact { uri: uri.to_owned(), sha256: ours }).unwrap_err();
        assert!(matches!(fault, ArtifactError::Address { .. }) && !fault.retryable(), "{uri}: {fault}");
    }
    let fault = shop.store().fetch(&Artifact { uri: "kafka:artifacts/7/0-0".to_owned(), sha256: ours }).unwrap_err();
    assert!(fault.retryable(), "a partition may be added: {fault}");
}

#[test]
fn more_bytes_than_an_artifact_may_have_are_neither_put_in_nor_read() {
    let mut shop = Shop::open();
    let artifact = shop.store().put("artifacts", &[7; 2_000]).unwrap();
    shop.config.artifacts.bytes_max = NonZeroU64::new(1_999).unwrap();
    let fault = shop.store().fetch(&artifact).unwrap_err();
    assert!(!fault.retryable() && fault.to_string().contains("more bytes"), "{fault}");
    let fault = shop.store().put("artifacts", &[7; 2_000]).unwrap_err();
    assert!(fault.to_string().contains("--in-place"), "{fault}");
}

#[test]
fn what_no_definition_names_is_pruned_by_tombstones() {
    let shop = Shop::open();
    let store = shop.store();
    let [named, unnamed] = [b"named".as_slice(), b"unnamed"].map(|bytes| store.put("artifacts", bytes).unwrap());
    let named = [named];
    let prune = |remove: bool| store.prune("artifacts", &named, PRUNE_AFTER_MIN, remove, PATIENCE).unwrap();
    assert_eq!(prune(true), [], "both are young");
    // Old ones, of which one has been removed already.
    let old = Sha256::of(b"oldest");
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", shop.mock.bootstrap_servers()).create().unwrap();
    for (number, value) in [(0, b"old".as_slice()), (1, b"est".as_slice())] {
        let key = key(old, number);
        producer.send(BaseRecord::to("artifacts").partition(0).key(&key).payload(value).timestamp(1_000)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let gone: Vec<_> = prune(false).into_iter().map(|pruned| (pruned.sha256, pruned.bytes)).collect();
    assert_eq!(gone, [(old, 6)]);
    assert_eq!(prune(true).len(), 1);
    assert_eq!(prune(true), [], "their tombstones are there");
    assert!([&named[0], &unnamed].iter().all(|artifact| store.fetch(artifact).is_ok()));
}
