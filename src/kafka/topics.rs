//! Which topics there are, and making those that are missing.
//!
//! Duty: at start, find or make every topic, and notice one that would lose what is written to it. Brokers that are away or not
//! whole are asked again until the start's time is over. Must not: change a topic that exists.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

use super::listener::Listener;
use super::{ClientError, Connection, Quiet};

const ROLE: &str = "admin";
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long brokers may take to hear of a topic that was just made; nothing but what is said of it waits for that.
const HEARD: Duration = Duration::from_secs(5);
/// Events that are picked up after a request; more come after the next.
const EVENTS_MAX: usize = 200;
/// Waits between attempts that failed and may pass: this at first, doubling up to the next.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A topic that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Partitions where it has to be made; at least 1. One that exists keeps its own number.
    pub partitions: i32,
    /// Replicas where it has to be made; -1 is the brokers' default.
    pub replication: i32,
    /// Whether it must keep the last record of every key for ever.
    pub compacted: bool,
    /// How long records are kept, where it has to be made; None is the brokers' default.
    pub retention: Option<Duration>,
}

/// Something about a topic that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFinding {
    /// It was missing and has been made.
    Created {
        /// Its name.
        topic: String,
        /// How many partitions it has got.
        partitions: usize,
        /// How many replicas each of them has got.
        replicas: usize,
    },
    /// It must keep the last record of every key and its `cleanup.policy` does not say so.
    NotCompacted {
        /// Its name.
        topic: String,
        /// What the policy is.
        policy: String,
    },
    /// It has one replica, where the cluster could give more: it is gone while that broker is away.
    OneReplica {
        /// Its name.
        topic: String,
        /// How many brokers there are.
        brokers: usize,
    },
}

/// What the brokers say of a topic that exists.
struct Look {
    /// The numbers of its partitions, in order.
    ids: Vec<i32>,
    /// The replicas of the partition that has fewest.
    replicas: usize,
}

/// Finds every topic; makes those that are missing where `create` says so. Blocks for `patience` at most, and for one request
/// of 10 s: what may pass is tried again until then.
///
/// Not for librdkafka's mock cluster: requests of this kind time out there.
///
/// # Errors
/// Where the brokers cannot be asked, or a topic is missing and may not or cannot be made.
pub fn ensure_topics(
    connection: &Connection,
    topics: &[TopicSpec],
    create: bool,
    patience: Duration,
) -> Result<Vec<TopicFinding>, ClientError> {
    let asker = Asker::new(connection, patience)?;
    let (mut created, mut findings) = (Vec::new(), Vec::new());
    for topic in topics {
        if asker.patiently(|| asker.find_or_make(topic, create))? {
            created.push(topic);
        }
    }
    for topic in topics {
        let Some((look, brokers)) = asker.look_until_known(&topic.name)? else { continue };
        let name = topic.name.clone();
        if created.contains(&topic) {
            let (partitions, replicas) = (look.ids.len(), look.replicas);
            findings.push(TopicFinding::Created { topic: name.clone(), partitions, replicas });
        }
        if has_needlessly_one(look.replicas, brokers) {
            findings.push(TopicFinding::OneReplica { topic: name.clone(), brokers });
        }
        if topic.compacted
            && let Some(policy) = cleanup_policy(&asker.admin, &name, &asker.options())
            && !policy.split(',').any(|part| part.trim() == "compact")
        {
            findings.push(TopicFinding::NotCompacted { topic: name, policy });
        }
    }
    Ok(findings)
}

/// Whether a topic's partitions have one replica though there are brokers for more.
fn has_needlessly_one(replicas: usize, brokers: usize) -> bool {
    replicas == 1 && brokers > 1
}

/// The numbers of a topic's partitions, in order; None where the topic does not exist.
///
/// # Errors
/// Where the brokers cannot be asked, or refuse to say.
pub fn partition_ids<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Vec<i32>>, ClientError> {
    let (look, _) = look(client, topic, timeout)?;
    Ok(look.map(|look| look.ids))
}

/// What the brokers say of a topic, None where it does not exist; and how many brokers there are.
fn look<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<(Option<Look>, usize), ClientError> {
    let metadata = client.fetch_metadata(Some(topic), timeout).map_err(|source| ClientError::Metadata {
        topic: topic.to_owned(),
        source: Box::new(source),
        heard: String::new(),
    })?;
    let brokers = metadata.brokers().len();
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok((None, brokers)) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok((None, brokers)),
        Some(code) => return Err(ClientError::Topic { topic: topic.to_owned(), code }),
    }
    let mut ids: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    ids.sort_unstable();
    let fewest = found.partitions().iter().map(|partition| partition.replicas().len()).min();
    Ok((fewest.map(|replicas| Look { ids, replicas }), brokers))
}

/// Asks for topics, for as long as the start has time.
struct Asker {
    admin: AdminClient<Quiet>,
    /// Asks for metadata: an [`AdminClient`] never says what librdkafka reports of its connections.
    asking: BaseProducer<Listener>,
    bootstrap_servers: String,
    by: Instant,
}

impl Asker {
    fn new(connection: &Connection, patience: Duration) -> Result<Self, ClientError> {
        let config = connection.admin();
        let create = |error: KafkaError| ClientError::create(ROLE, &error);
        Ok(Self {
            admin: config.create_with_context(Quiet { role: ROLE }).map_err(create)?,
            asking: config.create_with_context(Listener::new(ROLE)).map_err(create)?,
            bootstrap_servers: connection.bootstrap_servers.clone(),
            by: Instant::now() + patience,
        })
    }

    /// How long a request may take that begins now; at least a second, so that the last one is one.
    fn request(&self) -> Duration {
        self.by.saturating_duration_since(Instant::now()).clamp(Duration::from_secs(1), REQUEST)
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(self.request())).request_timeout(Some(self.request()))
    }

    /// Tries again what may pass, until the time is over.
    fn patiently<T>(&self, attempt: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
        let (mut backoff, mut said) = (BACKOFF_MIN, String::new());
        loop {
            let error = match attempt() {
                Err(error) if error.may_pass() => error,
                ended => return ended,
            };
            let left = self.by.saturating_duration_since(Instant::now());
            if left < backoff {
                return Err(error);
            }
            let reason = error.to_string();
            if said != reason {
                tracing::warn!(%reason, ?left, "the start waits for the brokers");
                said = reason;
            }
            std::thread::sleep(backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn look(&self, topic: &str) -> Result<(Option<Look>, usize), ClientError> {
        let looked = look(self.asking.client(), topic, self.request());
        // What librdkafka reports waits to be picked up, one event at a time, lines of its log among them.
        (0..EVENTS_MAX).for_each(|_| self.asking.poll(Duration::ZERO));
        let listener = self.asking.context();
        looked.inspect(|_| listener.forget()).map_err(|error| match error {
            ClientError::Metadata { topic, source, .. } => {
                let heard = listener.heard().unwrap_or_else(|| format!("{} says nothing", self.bootstrap_servers));
                ClientError::Metadata { topic, source, heard: format!(": {heard}") }
            }
            error => error,
        })
    }

    /// Looks at a topic that was there or was just made, of which not every broker may have heard yet. None where none has within
    /// [`HEARD`], or it was deleted in this moment.
    fn look_until_known(&self, topic: &str) -> Result<Option<(Look, usize)>, ClientError> {
        let by = Instant::now() + HEARD;
        loop {
            match self.patiently(|| self.look(topic))? {
                (Some(look), brokers) => return Ok(Some((look, brokers))),
                (None, _) if Instant::now() >= by => return Ok(None),
                (None, _) => std::thread::sleep(BACKOFF_MIN),
            }
        }
    }

    /// Whether the topic had to be made, by this node.
    fn find_or_make(&self, topic: &TopicSpec, create: bool) -> Result<bool, ClientError> {
        let (found, brokers) = self.look(&topic.name)?;
        match found {
            Some(_) => Ok(false),
            None if create => self.make(topic, brokers),
            None => Err(ClientError::TopicMissing { topic: topic.name.clone(), partitions: topic.partitions }),
        }
    }

    /// Makes a topic. False where another node was quicker.
    fn make(&self, topic: &TopicSpec, brokers: usize) -> Result<bool, ClientError> {
        let mut new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
        if topic.compacted {
            new = new.set("cleanup.policy", "compact");
        }
        let retention_ms = topic.retention.map(|retention| retention.as_millis().to_string());
        if let Some(retention_ms) = &retention_ms {
            new = new.set("retention.ms", retention_ms);
        }
        let failed = |cause: String, code| ClientError::TopicNotCreated {
            topic: topic.name.clone(),
            cause,
            code,
            replication: topic.replication,
            brokers,
        };
        let made = block_on(self.admin.create_topics([&new], &self.options()))
            .map_err(|error| failed(error.to_string(), error.rdkafka_error_code()))?;
        match made.into_iter().next() {
            Some(Ok(_)) => Ok(true),
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(failed(code.to_string(), Some(code))),
            None => Err(failed("the brokers answered with nothing".to_owned(), None)),
        }
    }
}

/// A topic's `cleanup.policy`; None where the brokers do not say, which access rights may cause and is no fault.
fn cleanup_policy(admin: &AdminClient<Quiet>, topic: &str, options: &AdminOptions) -> Option<String> {
    let described = match block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], options)) {
        Ok(described) => described.into_iter().next()?,
        Err(error) => {
            tracing::debug!(topic, %error, "cleanup.policy not read");
            return None;
        }
    };
    match described {
        Ok(resource) => resource.get("cleanup.policy")?.value.clone(),
        Err(code) => {
            tracing::debug!(topic, %code, "cleanup.policy not read");
            None
        }
    }
}

/// Waits for a future of the admin client, whose own thread completes it and whose requests have a time limit.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_is_needless_where_there_are_brokers_for_more() {
        assert!(has_needlessly_one(1, 2) && has_needlessly_one(1, 3));
        assert!(!has_needlessly_one(1, 1) && !has_needlessly_one(2, 3));
    }

    fn refused(bootstrap_servers: &str) -> String {
        let connection = Connection { bootstrap_servers: bootstrap_servers.to_owned(), ..Connection::default() };
        let spec =
            TopicSpec { name: "calls".to_owned(), partitions: 1, replication: 1, compacted: false, retention: None };
        let began = Instant::now();
        let error = ensure_topics(&connection, &[spec], true, Duration::from_millis(1_500)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(60), "{error}");
        error.to_string()
    }

    #[test]
    fn a_start_that_nobody_answers_says_which_address_and_why() {
        // A reserved name, that no server of names has.
        let said = refused("nobody.invalid:9092");
        assert!(said.contains("Failed to resolve 'nobody.invalid:9092'"), "{said}");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = refused(&free.to_string());
        assert!(said.contains(&free.to_string()) && said.contains("Connection refused"), "{said}");
        // It takes connections and never says a word.
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = deaf.local_addr().unwrap().to_string();
        let said = refused(&address);
        assert!(said.contains(&address) && said.contains("bootstrap-servers"), "{said}");
    }
}
