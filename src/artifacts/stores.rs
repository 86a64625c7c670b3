//! Every place that artifacts come from, by the scheme of their address.
//!
//! Must not: read anything itself.

use std::time::Duration;

use super::{ArtifactError, ArtifactStore, DirectoryStore, TopicStore};
use crate::config::Config;
use crate::kafka::Connection;
use crate::types::Artifact;

/// See the head of this file.
#[derive(Clone)]
pub struct Stores {
    files: DirectoryStore,
    topics: TopicStore,
}

impl Stores {
    /// The stores that the configuration names; see [`DirectoryStore::open`].
    pub fn open(config: &Config, connection: Connection) -> Self {
        Self { files: DirectoryStore::open(&config.artifacts), topics: TopicStore::new(config, connection) }
    }
}

impl ArtifactStore for Stores {
    fn fetch(&self, artifact: &Artifact) -> Result<Vec<u8>, ArtifactError> {
        if artifact.topic().is_some() { self.topics.fetch(artifact) } else { self.files.fetch(artifact) }
    }

    fn patience(&self) -> Duration {
        self.files.patience()
    }
}
