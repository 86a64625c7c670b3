//! Whether another process runs in the same group under this node's name: both would answer to one name, keep each other's
//! forecast snapshots, and fence each other where delivery is exactly-once.
//!
//! The group's coordinator lists its members with their client's name (`client.id`, which is made of `node.id`) and host. A member
//! that died is listed until its session ends, and a process that was started again has one of those beside it; so only names
//! that two members had at two looks count, with more than a session in between. Must not: do anything about it but say so.
//!
//! Limit: brokers list the members of classic groups alone this way; with `group.protocol=consumer` nothing is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, Producer};

use super::Connection;

/// How long one look may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Members of the group with one name: their ids, each with its host.
type Members = BTreeMap<String, String>;

/// A thread that looks. It ends soon after this is dropped, which does not wait for it.
pub struct Namesakes {
    _stop: Sender<()>,
}

impl Namesakes {
    /// Looks every four thirds of a session (`session`), on a thread of its own, and warns once.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn watch(connection: &Connection, session: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (connection, every) = (connection.clone(), session * 4 / 3);
        let body = move || {
            let mut before = Members::new();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                match members(&connection) {
                    Ok(now) => {
                        if let Some(hosts) = namesakes(&before, &now) {
                            tracing::warn!(
                                client = connection.client_id,
                                group = connection.group_id,
                                ?hosts,
                                "another process runs in this group under this node's name: each needs a node.id of its own"
                            );
                            return;
                        }
                        before = now;
                    }
                    Err(error) => tracing::debug!(%error, "the members of the group were not listed"),
                }
            }
        };
        std::thread::Builder::new().name("namesakes".to_owned()).spawn(body)?;
        Ok(Self { _stop: stop })
    }
}

/// The members of the group that have this client's name. The client is there for this one question: between two of them it
/// would only hold connections.
fn members(connection: &Connection) -> KafkaResult<Members> {
    let client: BaseProducer<_> = connection.admin().create_with_context(super::topics::Listener::default())?;
    let listed = client.client().fetch_group_list(Some(&connection.group_id), REQUEST)?;
    let members = listed.groups().iter().flat_map(rdkafka::groups::GroupInfo::members);
    let named = members.filter(|member| member.client_id() == connection.client_id);
    Ok(named.map(|member| (member.id().to_owned(), member.client_host().to_owned())).collect())
}

/// The hosts of the members, where two or more of them were there at both looks.
fn namesakes(before: &Members, now: &Members) -> Option<BTreeSet<String>> {
    let both: Vec<&String> = now.iter().filter(|(id, _)| before.contains_key(*id)).map(|(_, host)| host).collect();
    (both.len() > 1).then(|| both.into_iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(members: &[(&str, &str)]) -> Members {
        members.iter().map(|(id, host)| ((*id).to_owned(), (*host).to_owned())).collect()
    }

    #[test]
    fn two_that_stay_are_two_and_one_that_died_is_none() {
        let look = |before: &[_], now: &[_]| namesakes(&members(before), &members(now));
        let (mine, other, dead) = (("mine", "/10.0.0.1"), ("other", "/10.0.0.2"), ("dead", "/10.0.0.1"));
        let hosts = look(&[mine, other], &[mine, other]).expect("two that stay");
        assert_eq!(hosts.into_iter().collect::<Vec<_>>(), ["/10.0.0.1", "/10.0.0.2"]);
        // Started again: the one of before is listed until its session ends.
        assert_eq!(look(&[dead], &[mine, dead]), None);
        assert_eq!(look(&[mine, dead], &[mine]), None);
        // Thrown out, and joined anew under another id.
        assert_eq!(look(&[mine, other], &[("mine-2", "/10.0.0.1"), other]), None);
        assert_eq!(look(&[], &[mine]), None);
    }
}
