//! WebAssembly bytes by digest, from a topic or from files, and the machine code made of them.
//!
//! Duty: hand out bytes that are what their definition says, or say why not. Must not: compile, run, or trust a file that it
//! has not checked.

mod code_cache;
mod folder;
mod key;
mod leftovers;
mod prune;
mod roots;
mod store;
mod stores;
mod topic;
mod trust;

pub use code_cache::{CodeCache, CodeFile};
pub use prune::{PRUNE_AFTER_MIN, Pruned};
pub use store::{ArtifactError, ArtifactStore, DirectoryStore};
pub use stores::Stores;
pub use topic::{ChunkError, TOPIC_BYTES_MAX, TopicStore};
