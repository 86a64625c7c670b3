//! What a client tells whoever runs it while it works.
//!
//! Must not: print; whoever runs it knows where words go.

use std::sync::Arc;

/// A record that was come upon and could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why not, in words that may hold foreign text.
    pub reason: String,
}

/// Something worth telling that ends nothing.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// A record was left out.
    Unread(&'a Unreadable),
    /// Brokers are waited for: which, and why they do not answer.
    Waits(&'a str),
}

/// Where it goes. Called on the thread that uses the client.
pub type Tell = Arc<dyn Fn(&Told<'_>) + Send + Sync>;

/// Into the log.
pub(super) fn log() -> Tell {
    Arc::new(|told| match told {
        Told::Unread(Unreadable { topic, partition, offset, reason }) => {
            tracing::warn!(topic, partition, offset, reason, "a record cannot be read");
        }
        Told::Waits(reason) => tracing::warn!(reason, "brokers are waited for"),
    })
}
