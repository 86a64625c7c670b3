//! From an artifact's bytes to code that can be instantiated: compiled once, cached on disk, linked once.
//!
//! Compiling takes seconds for real languages, so it happens when a function is registered and never again for the same
//! bytes and engine. Must not: fetch artifacts, or run a guest.

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmtime::component::{Component, HasSelf, Linker as ComponentLinker};
use wasmtime::{Engine, InstancePre, Linker, Module};
use wasmtime_wasi::p1::WasiP1Ctx;

use super::bindings::FunctionPre;
use super::bindings::forewarm::function::pre_triggers;
use super::host::{Host, Preview2};
use crate::artifacts::{CodeCache, CodeFile};
use crate::types::{FunctionDefinition, FunctionKind, Sha256, StartKind};

/// Linked code of one version of a function.
pub(super) enum Code {
    /// A component of our world.
    Component(FunctionPre<Host<Preview2>>),
    /// A WASI command module.
    Command(InstancePre<Host<WasiP1Ctx>>),
}

/// Where the machine code came from, as the start kind of a call that had to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was compiled now.
    Compiled,
    /// It was in the cache on disk.
    Cached,
}

impl Origin {
    pub(super) fn start_kind(self) -> StartKind {
        match self {
            Self::Compiled => StartKind::Cold,
            Self::Cached => StartKind::Loaded,
        }
    }
}

/// The artifact cannot become a function.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodeError {
    #[error("the artifact is no {kind} that can be compiled: {fault}")]
    Compile { kind: &'static str, fault: String },
    #[error("the {kind} wants an import that is not given here, or lacks an export of its world: {fault}")]
    Link { kind: &'static str, fault: String },
}

/// The name of this engine's machine code in the cache: code of another engine or settings must never be loaded.
pub(super) fn engine_hash(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Takes the machine code of a definition's artifact from `cache` and links it; `None` where it is not there. The artifact
/// itself is not needed for that: code is kept by the artifact's digest, and says itself whether it is a component's.
pub(super) fn cached(
    engine: &Engine,
    cache: &CodeCache,
    definition: &FunctionDefinition,
) -> Result<Option<Code>, CodeError> {
    let digest = definition.artifact.code_key();
    Ok(match definition.kind {
        FunctionKind::Component => match from_cache(engine, cache, digest, &Form::COMPONENT) {
            Some(component) => Some(Code::Component(link_component(engine, &component)?)),
            None => None,
        },
        FunctionKind::Command => match from_cache(engine, cache, digest, &Form::MODULE) {
            Some(module) => Some(Code::Command(link_command(engine, &module)?)),
            None => None,
        },
    })
}

/// Compiles the artifact of a definition, keeps its machine code in `cache`, and links it. Blocks for as long as compiling
/// takes.
pub(super) fn compile(
    engine: &Engine,
    cache: &CodeCache,
    definition: &FunctionDefinition,
    wasm: &[u8],
) -> Result<Code, CodeError> {
    let digest = definition.artifact.code_key();
    Ok(match definition.kind {
        FunctionKind::Component => {
            Code::Component(link_component(engine, &from_wasm(engine, cache, digest, &Form::COMPONENT, wasm)?)?)
        }
        FunctionKind::Command => {
            Code::Command(link_command(engine, &from_wasm(engine, cache, digest, &Form::MODULE, wasm)?)?)
        }
    })
}

/// What differs between modules and components on the way through the cache.
struct Form<T> {
    name: &'static str,
    precompile: fn(&Engine, &[u8]) -> wasmtime::Result<Vec<u8>>,
    from_file: fn(&Engine, &CodeFile) -> wasmtime::Result<T>,
    from_bytes: fn(&Engine, &[u8]) -> wasmtime::Result<T>,
}

impl Form<Component> {
    const COMPONENT: Self = Self {
        name: "component",
        precompile: Engine::precompile_component,
        from_file: component_from_file,
        from_bytes: component_from_bytes,
    };
}

impl Form<Module> {
    const MODULE: Self = Self {
        name: "command module",
        precompile: Engine::precompile_module,
        from_file: module_from_file,
        from_bytes: module_from_bytes,
    };
}

impl<T> Form<T> {
    /// Machine code that is in `file` and was checked to be `bytes`. From the file it is mapped and shared; where that cannot be
    /// (a file system without execution, no /proc) the bytes are copied.
    fn load(&self, engine: &Engine, file: &CodeFile, bytes: &[u8]) -> wasmtime::Result<T> {
        (self.from_file)(engine, file).or_else(|fault| {
            tracing::debug!(file = file.name(), %fault, "machine code is copied, as it cannot be mapped");
            (self.from_bytes)(engine, bytes)
        })
    }
}

#[expect(unsafe_code, reason = "machine code from our own cache, whose digest CodeCache has just verified")]
fn component_from_file(engine: &Engine, file: &CodeFile) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by `precompile_component` of an engine with the same compatibility hash. `CodeCache` hands
    // it out open, after its content matched the digest taken when it was written, and the path leads to that very file. It
    // stays as it is: nobody but this user and root may write to it, and a cache replaces files and never changes them.
    unsafe { Component::deserialize_file(engine, file.path()) }
}

#[expect(unsafe_code, reason = "machine code from our own cache, whose digest CodeCache has just verified")]
fn module_from_file(engine: &Engine, file: &CodeFile) -> wasmtime::Result<Module> {
    // SAFETY: as in `component_from_file`, with `precompile_module`.
    unsafe { Module::deserialize_file(engine, file.path()) }
}

#[expect(unsafe_code, reason = "machine code that was just compiled, or whose digest CodeCache has just verified")]
fn component_from_bytes(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes were made by `precompile_component` of an engine with the same compatibility hash: just now, or they
    // match the digest taken then.
    unsafe { Component::deserialize(engine, bytes) }
}

#[expect(unsafe_code, reason = "machine code that was just compiled, or whose digest CodeCache has just verified")]
fn module_from_bytes(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Module> {
    // SAFETY: as in `component_from_bytes`, with `precompile_module`.
    unsafe { Module::deserialize(engine, bytes) }
}

fn from_cache<T>(engine: &Engine, cache: &CodeCache, digest: Sha256, form: &Form<T>) -> Option<T> {
    let (file, bytes) = cache.find(digest, engine_hash(engine))?;
    let loaded = form.load(engine, &file, &bytes);
    loaded
        .inspect_err(|fault| {
            tracing::warn!(%digest, file = file.name(), %fault, "cached code was refused; compiling anew");
        })
        .ok()
}

fn from_wasm<T>(
    engine: &Engine,
    cache: &CodeCache,
    digest: Sha256,
    form: &Form<T>,
    wasm: &[u8],
) -> Result<T, CodeError> {
    let compile_fault = |fault: wasmtime::Error| CodeError::Compile { kind: form.name, fault: format!("{fault:#}") };
    let bytes = (form.precompile)(engine, wasm).map_err(compile_fault)?;
    let code = match cache.store(digest, engine_hash(engine), &bytes) {
        Some(file) => form.load(engine, &file, &bytes),
        None => (form.from_bytes)(engine, &bytes),
    };
    code.map_err(compile_fault)
}

fn link_component(engine: &Engine, component: &Component) -> Result<FunctionPre<Host<Preview2>>, CodeError> {
    let fault = |fault: wasmtime::Error| CodeError::Link { kind: "component", fault: format!("{fault:#}") };
    let mut linker = ComponentLinker::<Host<Preview2>>::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(fault)?;
    pre_triggers::add_to_linker::<_, HasSelf<_>>(&mut linker, |host| host).map_err(fault)?;
    let pre = linker.instantiate_pre(component).map_err(fault)?;
    FunctionPre::new(pre).map_err(fault)
}

fn link_command(engine: &Engine, module: &Module) -> Result<InstancePre<Host<WasiP1Ctx>>, CodeError> {
    let fault = |fault: wasmtime::Error| CodeError::Link { kind: "command module", fault: format!("{fault:#}") };
    if module.get_export("_start").is_none() {
        return Err(fault(wasmtime::format_err!("it has no export `_start`")));
    }
    let mut linker = Linker::<Host<WasiP1Ctx>>::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host| &mut host.wasi).map_err(fault)?;
    linker.instantiate_pre(module).map_err(fault)
}
