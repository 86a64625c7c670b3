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
use crate::artifacts::CodeCache;
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

/// Compiles `wasm` or takes its machine code from `cache`, and links it. Blocks for as long as compiling takes.
pub(super) fn load(
    engine: &Engine,
    cache: &CodeCache,
    definition: &FunctionDefinition,
    wasm: &[u8],
) -> Result<(Code, Origin), CodeError> {
    match definition.kind {
        FunctionKind::Component => {
            let (component, origin) = from_cache(cache, definition.artifact.sha256, engine, Form::COMPONENT, wasm)?;
            Ok((Code::Component(link_component(engine, &component)?), origin))
        }
        FunctionKind::Command => {
            let (module, origin) = from_cache(cache, definition.artifact.sha256, engine, Form::MODULE, wasm)?;
            Ok((Code::Command(link_command(engine, &module)?), origin))
        }
    }
}

/// What differs between modules and components on the way through the cache.
struct Form<T> {
    name: &'static str,
    precompile: fn(&Engine, &[u8]) -> wasmtime::Result<Vec<u8>>,
    from_file: fn(&Engine, &std::path::Path) -> wasmtime::Result<T>,
    from_wasm: fn(&Engine, &[u8]) -> wasmtime::Result<T>,
}

impl Form<Component> {
    const COMPONENT: Self = Self {
        name: "component",
        precompile: Engine::precompile_component,
        from_file: component_from_file,
        from_wasm: Component::from_binary,
    };
}

impl Form<Module> {
    const MODULE: Self = Self {
        name: "command module",
        precompile: Engine::precompile_module,
        from_file: module_from_file,
        from_wasm: Module::from_binary,
    };
}

#[expect(unsafe_code, reason = "machine code from our own cache, whose digest CodeCache has just verified")]
fn component_from_file(engine: &Engine, path: &std::path::Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by `precompile_component` of an engine with the same compatibility hash, and
    // `CodeCache` hands out a path only after its content matched the digest taken when it was written.
    unsafe { Component::deserialize_file(engine, path) }
}

#[expect(unsafe_code, reason = "machine code from our own cache, whose digest CodeCache has just verified")]
fn module_from_file(engine: &Engine, path: &std::path::Path) -> wasmtime::Result<Module> {
    // SAFETY: as in `component_from_file`, with `precompile_module`.
    unsafe { Module::deserialize_file(engine, path) }
}

fn from_cache<T>(
    cache: &CodeCache,
    digest: Sha256,
    engine: &Engine,
    form: Form<T>,
    wasm: &[u8],
) -> Result<(T, Origin), CodeError> {
    let hash = engine_hash(engine);
    if let Some(path) = cache.path(digest, hash) {
        match (form.from_file)(engine, &path) {
            Ok(code) => return Ok((code, Origin::Cached)),
            Err(fault) => {
                tracing::warn!(%digest, path = %path.display(), %fault, "cached code was refused; compiling anew")
            }
        }
    }
    let compile_fault = |fault: wasmtime::Error| CodeError::Compile { kind: form.name, fault: format!("{fault:#}") };
    let machine_code = (form.precompile)(engine, wasm).map_err(compile_fault)?;
    // From the file the code is mapped and shared, not copied; without a usable cache it is compiled into memory.
    let code = match cache.store(digest, hash, &machine_code) {
        Some(path) => (form.from_file)(engine, &path),
        None => (form.from_wasm)(engine, wasm),
    };
    Ok((code.map_err(compile_fault)?, Origin::Compiled))
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
