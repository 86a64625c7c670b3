//! Settings of every librdkafka client, from the service's own settings, the free properties, and what this service needs.
//!
//! Duty: one place that says which settings are ours and why. Must not: open a connection.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;

use super::{Watch, Witness};

/// How a node is a member of its consumer group, as far as the free properties leave that open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// As the free properties say; librdkafka's own default is a nameless member of the classic group protocol.
    #[default]
    AsGiven,
    /// By the classic group protocol and under a name that outlives the process (`group.instance.id`): a node that crashed and
    /// is started again goes on with its partitions at once, where a nameless one waits for its predecessor's session to end.
    Named(String),
    /// By the group protocol of Kafka 4, if the brokers know it.
    Newer,
}

/// What every client needs to reach the brokers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// The client's name in the brokers' logs and quotas.
    pub client_id: String,
    /// The consumer group of the invocations. Readers without a group use its name too (see [`reader`](Self::reader)).
    pub group_id: String,
    /// How the group knows this node.
    pub membership: Membership,
    /// librdkafka's own settings, as they are. A client takes those that it knows what to do with.
    pub properties: BTreeMap<String, String>,
    /// Watches the calls into librdkafka whose time limit may not hold.
    pub watch: Watch,
    /// Looks whether brokers that do not answer one client answer another.
    pub witness: Witness,
}

impl fmt::Debug for Connection {
    /// Names the free properties without their values: passwords and keys are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("client_id", &self.client_id)
            .field("group_id", &self.group_id)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

/// What a free property may not change, because the service's promises rest on it: offsets move when an outcome is stored,
/// never by themselves, and a transaction that was given up is not read.
const CONSUMER: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
];

impl Connection {
    /// Settings of a member of the consumer group.
    pub fn group_member(&self) -> ClientConfig {
        // Defaults that a free property may change: a group that is new begins where the topic begins, as calls that were
        // made before the first node came up wait for an answer too.
        let mut defaults = vec![("auto.offset.reset", "earliest")];
        match &self.membership {
            Membership::AsGiven => {}
            Membership::Named(name) => defaults.push(("group.instance.id", name)),
            Membership::Newer => defaults.push(("group.protocol", "consumer")),
        }
        // With the group protocol of Kafka 4 the broker assigns, and librdkafka refuses a strategy of the client's.
        let given = self.properties.get("group.protocol").map(String::as_str);
        let is_newer = given == Some("consumer") || (given.is_none() && self.membership == Membership::Newer);
        if !is_newer {
            defaults.push(("partition.assignment.strategy", "cooperative-sticky"));
        }
        let mut config = self.base(&defaults);
        set_all(&mut config, &CONSUMER);
        config.set("group.id", &self.group_id);
        config
    }

    /// Settings of a reader that assigns itself every partition and is no member of a group.
    ///
    /// librdkafka has no assignment without a group's name. The reader never joins or commits, so it takes the name that
    /// this client's access rights name anyway.
    pub fn reader(&self) -> ClientConfig {
        // A reader fetches beside the invocations: a tenth of librdkafka's usual read-ahead is enough for it.
        let mut config = self.base(&[("queued.min.messages", "10000"), ("queued.max.messages.kbytes", "16384")]);
        set_all(&mut config, &CONSUMER);
        config.set("group.id", if self.group_id.is_empty() { "forewarm" } else { &self.group_id });
        config.set("auto.offset.reset", "earliest");
        config.set("enable.partition.eof", "true");
        // A name that is kept for members: two clients with one name throw each other out of the group.
        config.remove("group.instance.id");
        config
    }

    /// Settings of the producer: what it acknowledged is stored on every replica in sync, once and in order.
    pub fn producer(&self) -> ClientConfig {
        // `murmur2_random` is what Java's producers do, so that a result lies where a stream processor expects its key.
        let mut config = self.base(&[("linger.ms", "2"), ("partitioner", "murmur2_random")]);
        set_all(&mut config, &[("enable.idempotence", "true"), ("acks", "all")]);
        config
    }

    /// Settings of a producer of transactions.
    ///
    /// A transaction is open for as long as it takes to store it. The brokers end one that is older than the limit, which is
    /// how long a node that died may keep readers and its partitions' next owner waiting; 15 s is above a broker's restart.
    pub fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        // A coordinator is not through with the last transaction when it says that it is committed, and has the next one wait
        // (CONCURRENT_TRANSACTIONS). librdkafka's usual 100 ms would be most of a transaction's time.
        for (key, value) in [("transaction.timeout.ms", "15000"), ("retry.backoff.ms", "10")] {
            if !self.properties.contains_key(key) {
                config.set(key, value);
            }
        }
        config.set("transactional.id", id);
        config
    }

    /// Settings of a client that asks for metadata and makes topics. An address where nothing answers should be named before the
    /// start's time is over: librdkafka's usual 30 s are as long as that.
    pub fn admin(&self) -> ClientConfig {
        self.base(&[("socket.connection.setup.timeout.ms", "5000")])
    }

    /// `defaults`, then the free properties, then what has a key of its own.
    fn base(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        // After a broker's restart librdkafka may hear of a leader before it knows that broker ("new leader not found in
        // cache"), and ask again only when it refreshes all metadata: every five minutes, unless told otherwise.
        config.set("topic.metadata.refresh.interval.ms", "10000");
        // librdkafka waits up to ten seconds before it tries a broker again. A broker that is back waits a session for each
        // member of a group, so a member that is late is thrown out, and what it had not committed runs twice. Java's clients
        // wait up to one second.
        config.set("reconnect.backoff.max.ms", "1000");
        set_all(&mut config, defaults);
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        if !self.client_id.is_empty() {
            config.set("client.id", &self.client_id);
        }
        config.set_log_level(log_level());
        config
    }
}

fn set_all(config: &mut ClientConfig, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        config.set(*key, *value);
    }
}

/// As much as somebody listens to: librdkafka formats what it logs.
fn log_level() -> RDKafkaLogLevel {
    if tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else if tracing::enabled!(target: "librdkafka", tracing::Level::INFO) {
        RDKafkaLogLevel::Info
    } else {
        RDKafkaLogLevel::Warning
    }
}

/// Passes a line of librdkafka's log on, under the target `librdkafka`.
///
/// Connections that fail come as errors there, over and over; they are debug lines here, because [`Health`](super::Health)
/// says once that the brokers cannot be reached, and why. So are warnings that a producer has a consumer's setting or the
/// other way round: the free properties go to every client.
pub fn log(role: &'static str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        _ if matches!(facility, "FAIL" | "ERROR" | "CONFWARN") => {
            tracing::debug!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", client = role, facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", client = role, facility, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", client = role, facility, "{message}"),
    }
}

/// The context of clients that need nothing but their log lines passed on.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// What the client is for, in the log.
    pub role: &'static str,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(self.role, level, facility, message);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::debug!(client = self.role, %error, reason, "kafka client reports");
    }
}

impl rdkafka::consumer::ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(properties: &[(&str, &str)]) -> Connection {
        Connection {
            bootstrap_servers: "a:1,b:2".to_owned(),
            client_id: "node-1".to_owned(),
            group_id: "calls".to_owned(),
            properties: properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Connection::default()
        }
    }

    #[test]
    fn free_properties_change_defaults_and_not_what_promises_rest_on() {
        let connection = connection(&[
            ("linger.ms", "50"),
            ("enable.auto.commit", "true"),
            ("acks", "1"),
            ("bootstrap.servers", "elsewhere:9"),
            ("auto.offset.reset", "latest"),
        ]);
        let producer = connection.producer();
        assert_eq!(producer.get("linger.ms"), Some("50"));
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("bootstrap.servers"), Some("a:1,b:2"));
        let member = connection.group_member();
        assert_eq!(member.get("enable.auto.commit"), Some("false"));
        assert_eq!(member.get("auto.offset.reset"), Some("latest"));
        assert_eq!(member.get("group.id"), Some("calls"));
    }

    #[test]
    fn a_reader_is_no_member_and_reads_from_the_start_where_its_place_is_gone() {
        let reader = connection(&[("group.instance.id", "me"), ("auto.offset.reset", "latest")]).reader();
        assert_eq!(reader.get("group.instance.id"), None);
        assert_eq!(reader.get("auto.offset.reset"), Some("earliest"));
        assert_eq!(reader.get("enable.partition.eof"), Some("true"));
    }

    #[test]
    fn where_the_broker_assigns_the_client_has_no_strategy() {
        let strategy =
            |connection: Connection| connection.group_member().get("partition.assignment.strategy").map(str::to_owned);
        assert_eq!(strategy(connection(&[])).as_deref(), Some("cooperative-sticky"));
        assert_eq!(strategy(connection(&[("group.protocol", "consumer")])), None);
        let newer = |properties| Connection { membership: Membership::Newer, ..connection(properties) };
        assert_eq!(strategy(newer(&[])), None);
        assert_eq!(strategy(newer(&[("group.protocol", "classic")])).as_deref(), Some("cooperative-sticky"));
    }

    #[test]
    fn a_member_has_the_name_that_is_given_before_the_one_that_is_assumed() {
        let named =
            |properties| Connection { membership: Membership::Named("n1".to_owned()), ..connection(properties) };
        let name = |connection: Connection| connection.group_member().get("group.instance.id").map(str::to_owned);
        assert_eq!(name(named(&[])).as_deref(), Some("n1"));
        assert_eq!(name(named(&[("group.instance.id", "mine")])).as_deref(), Some("mine"));
        assert_eq!(name(connection(&[])), None);
        assert_eq!(named(&[]).reader().get("group.instance.id"), None);
    }

    #[test]
    fn values_of_free_properties_are_not_printed() {
        let text = format!("{:?}", connection(&[("sasl.password", "secret")]));
        assert!(text.contains("sasl.password") && !text.contains("secret"), "{text}");
    }
}
