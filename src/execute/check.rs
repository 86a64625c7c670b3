//! Whether a node could run an artifact, asked before anything is published: the same look, compiler and linker as a node's, and
//! the same words.
//!
//! Must not: keep code, need an executor, or run a guest.

use super::code::{self, CodeError};
use super::compile::{CompileError, Compiler, Limit, Limits};
use super::engine;
use super::inspect::{self, Bounds};
use super::loader::{LoadError, name};
use crate::config::Execute;
use crate::types::FunctionKind;

/// How far the compiler stands back for other processes: somebody waits for it at a terminal.
const NICE: i32 = 5;

/// Why nothing is known to run an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No node with these settings runs it.
    #[error("{0}")]
    Refused(String),
    /// This machine cannot tell; a node may.
    #[error("{0}")]
    Unknown(String),
}

/// Checks that an artifact is WebAssembly of its kind, asks for nothing that is not given, compiles within the limits of `config`, and
/// links. Takes as long as compiling does. Answers the bytes of the largest linear memory with which it begins.
///
/// # Errors
/// See [`Unfit`].
pub fn check(config: &Execute, kind: FunctionKind, wasm: &[u8]) -> Result<u64, Unfit> {
    let refused = |fault: LoadError| Unfit::Refused(fault.to_string());
    let host = |fault: wasmtime::Error| Unfit::Unknown(format!("{fault:#}"));
    let preview1 = code::preview1_names().map_err(host)?;
    let bounds = Bounds { memory_bytes_max: config.instance_memory_bytes_max, preview1: &preview1 };
    let memory_bytes = inspect::inspect(kind, wasm, &bounds)
        .map_err(|reason| refused(LoadError::Unfit { kind: name(kind), reason }))?;
    let engine = engine::compiler().map_err(host)?;
    let limits = Limits {
        memory_bytes: config.compile_memory_bytes_max,
        cpu_time: config.compile_cpu_time_max,
        wall_time: config.compile_timeout,
    };
    let compiler = Compiler::new(config, code::engine_hash(&engine));
    let compiled = compiler.compile(kind, wasm, &limits, NICE, &|| true).map_err(|fault| match fault {
        CompileError::Host(_) | CompileError::Killed | CompileError::Unwanted => Unfit::Unknown(fault.to_string()),
        // A node with more time may get through.
        CompileError::Over(Limit::WallTime, _) => Unfit::Unknown(fault.to_string()),
        _ => refused(LoadError::Compile { kind: name(kind), reason: fault.to_string() }),
    })?;
    match code::links(&engine, kind, &compiled) {
        Ok(()) => Ok(memory_bytes),
        Err(fault @ CodeError::Exhausted(_)) => Err(Unfit::Unknown(fault.to_string())),
        Err(fault) => Err(refused(fault.into())),
    }
}
