//! WebAssembly bytes by digest, and the machine code made of them.
//!
//! Duty: hand out bytes that are what their definition says, or say why not. Must not: compile, run, or trust a file that it
//! has not checked.

mod code_cache;
mod store;

pub use code_cache::CodeCache;
pub use store::{ArtifactError, ArtifactStore, DirectoryStore};
