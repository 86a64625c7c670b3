//! Which topics there are, and making those that are missing.
//!
//! Duty: at start, find or make every topic, and notice one that would lose what is written to it. Must not: change a topic
//! that exists.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;

use super::{ClientError, Connection, Quiet};

const ROLE: &str = "admin";

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
}

/// Something about a topic that somebody should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFinding {
    /// It was missing and has been made.
    Created {
        /// Its name.
        topic: String,
    },
    /// It must keep the last record of every key and its `cleanup.policy` does not say so.
    NotCompacted {
        /// Its name.
        topic: String,
        /// What the policy is.
        policy: String,
    },
}

/// Finds every topic; makes those that are missing where `create` says so. Blocks, each request up to `timeout`.
///
/// Not for librdkafka's mock cluster: requests of this kind time out there.
///
/// # Errors
/// Where the brokers cannot be asked, or a topic is missing and may not or cannot be made.
pub fn ensure_topics(
    connection: &Connection,
    topics: &[TopicSpec],
    create: bool,
    timeout: Duration,
) -> Result<Vec<TopicFinding>, ClientError> {
    let admin: AdminClient<Quiet> = connection
        .admin()
        .create_with_context(Quiet { role: ROLE })
        .map_err(|error| ClientError::create(ROLE, &error))?;
    let options = AdminOptions::new().operation_timeout(Some(timeout)).request_timeout(Some(timeout));
    let mut findings = Vec::new();
    for topic in topics {
        if partition_ids(admin.inner(), &topic.name, timeout)?.is_some() {
            continue;
        }
        if !create {
            return Err(ClientError::TopicMissing { topic: topic.name.clone(), partitions: topic.partitions });
        }
        if create_topic(&admin, topic, &options)? {
            findings.push(TopicFinding::Created { topic: topic.name.clone() });
        }
    }
    for topic in topics.iter().filter(|topic| topic.compacted) {
        if let Some(policy) = cleanup_policy(&admin, &topic.name, &options)
            && !policy.split(',').any(|part| part.trim() == "compact")
        {
            findings.push(TopicFinding::NotCompacted { topic: topic.name.clone(), policy });
        }
    }
    Ok(findings)
}

/// The numbers of a topic's partitions, in order; None where the topic does not exist.
///
/// # Errors
/// Where the brokers cannot be asked, or refuse to say.
pub fn partition_ids<C: rdkafka::client::ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Vec<i32>>, ClientError> {
    let metadata = client
        .fetch_metadata(Some(topic), timeout)
        .map_err(|source| ClientError::Metadata { topic: topic.to_owned(), source })?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(ClientError::Topic { topic: topic.to_owned(), code }),
    }
    let mut ids: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    ids.sort_unstable();
    Ok(if ids.is_empty() { None } else { Some(ids) })
}

/// Makes a topic. False where another node was quicker.
fn create_topic(admin: &AdminClient<Quiet>, topic: &TopicSpec, options: &AdminOptions) -> Result<bool, ClientError> {
    let mut new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    if topic.compacted {
        new = new.set("cleanup.policy", "compact");
    }
    let failed = |cause: String| ClientError::TopicNotCreated { topic: topic.name.clone(), cause };
    let made = block_on(admin.create_topics([&new], options)).map_err(|fault| failed(fault.to_string()))?;
    match made.into_iter().next() {
        Some(Ok(_)) => Ok(true),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(failed(code.to_string())),
        None => Err(failed("the brokers answered with nothing".to_owned())),
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
