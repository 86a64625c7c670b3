//! From machine code to code that can be instantiated: kept on disk, loaded and linked once for all functions that have it.
//!
//! Must not: fetch artifacts, compile, or run a guest.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::component::{Component, HasSelf, Linker as ComponentLinker};
use wasmtime::{Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::bindings::FunctionPre;
use super::bindings::forewarm::function::pre_triggers;
use super::host::{Host, Preview2};
use crate::artifacts::{CodeCache, CodeFile};
use crate::types::{FunctionKind, Sha256, StartKind};

/// Files of code that are held open at once.
const DESCRIPTORS_MAX: usize = 256;

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

/// Machine code that cannot be loaded or linked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodeError {
    #[error("the artifact's code cannot be loaded as a {kind}: {fault}")]
    Load { kind: &'static str, fault: String },
    #[error("the {kind} wants an import that is not given here, or lacks an export of its world: {fault}")]
    Link { kind: &'static str, fault: String },
    /// The machine has no more of something: no fault of the artifact's, and it may be had later.
    #[error("this node has run out of something that loading needs: {0}")]
    Exhausted(String),
}

/// The files of code that are held open: [`DESCRIPTORS_MAX`] at most, and code beyond them is copied into memory.
#[derive(Clone, Default)]
pub(super) struct Descriptors(Arc<AtomicUsize>);

/// One of [`Descriptors`]; given back when it is dropped.
struct Descriptor(Descriptors);

impl Descriptors {
    fn take(&self) -> Option<Descriptor> {
        let more = |held: usize| (held < DESCRIPTORS_MAX).then_some(held + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Descriptor(self.clone()))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Linked code, as all functions with the same artifact share it.
pub(super) struct Shared {
    code: Code,
    /// Wasmtime keeps the file open from which code and images of memories are mapped.
    _descriptor: Option<Descriptor>,
}

impl Deref for Shared {
    type Target = Code;

    fn deref(&self) -> &Code {
        &self.code
    }
}

/// The name of this engine's machine code in the cache: code of another engine or settings must never be loaded.
pub(super) fn engine_hash(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Takes machine code by its artifact's digest from `cache` and links it; `None` where it is not there. The artifact itself is
/// not needed for that: code says itself whether it is a component's.
pub(super) fn kept(
    engine: &Engine,
    cache: &CodeCache,
    kind: FunctionKind,
    digest: Sha256,
    descriptors: &Descriptors,
) -> Result<Option<Shared>, CodeError> {
    let Some((file, bytes)) = cache.find(digest, engine_hash(engine)) else { return Ok(None) };
    match link(engine, kind, Some(file), &bytes, descriptors) {
        Err(CodeError::Load { fault, .. }) => {
            tracing::warn!(%digest, fault, "kept code was refused; compiling anew");
            Ok(None)
        }
        linked => linked.map(Some),
    }
}

/// Keeps machine code that was just compiled in `cache`, and links it.
pub(super) fn keep(
    engine: &Engine,
    cache: &CodeCache,
    kind: FunctionKind,
    digest: Sha256,
    code: &[u8],
    descriptors: &Descriptors,
) -> Result<Shared, CodeError> {
    let file = cache.store(digest, engine_hash(engine), code);
    link(engine, kind, file, code, descriptors)
}

/// Whether machine code that was just compiled can be linked.
pub(super) fn links(engine: &Engine, kind: FunctionKind, code: &[u8]) -> Result<(), CodeError> {
    link(engine, kind, None, code, &Descriptors::default()).map(drop)
}

fn link(
    engine: &Engine,
    kind: FunctionKind,
    file: Option<CodeFile>,
    bytes: &[u8],
    descriptors: &Descriptors,
) -> Result<Shared, CodeError> {
    let (descriptor, code) = match kind {
        FunctionKind::Component => {
            let (descriptor, component) = Form::COMPONENT.load(engine, file, bytes, descriptors)?;
            (descriptor, Code::Component(link_component(engine, &component)?))
        }
        FunctionKind::Command => {
            let (descriptor, module) = Form::MODULE.load(engine, file, bytes, descriptors)?;
            (descriptor, Code::Command(link_command(engine, &module)?))
        }
    };
    Ok(Shared { code, _descriptor: descriptor })
}

/// What differs between modules and components on the way to the engine.
struct Form<T> {
    name: &'static str,
    from_file: fn(&Engine, CodeFile) -> wasmtime::Result<T>,
    from_bytes: fn(&Engine, &[u8]) -> wasmtime::Result<T>,
}

impl Form<Component> {
    const COMPONENT: Self =
        Self { name: "component", from_file: component_from_file, from_bytes: component_from_bytes };
}

impl Form<Module> {
    const MODULE: Self = Self { name: "command module", from_file: module_from_file, from_bytes: module_from_bytes };
}

impl<T> Form<T> {
    /// Machine code that is in `file` and was checked to be `bytes`. From the file it is mapped and shared, for as long as there
    /// is a descriptor for that; beyond them, and where it cannot be (a file system without execution, no /proc), the bytes
    /// are copied.
    fn load(
        &self,
        engine: &Engine,
        file: Option<CodeFile>,
        bytes: &[u8],
        descriptors: &Descriptors,
    ) -> Result<(Option<Descriptor>, T), CodeError> {
        if let Some(file) = file
            && let Some(descriptor) = descriptors.take()
        {
            let name = file.name().to_owned();
            match (self.from_file)(engine, file) {
                Ok(code) => return Ok((Some(descriptor), code)),
                Err(fault) => tracing::debug!(name, %fault, "machine code is copied, as it cannot be mapped"),
            }
        }
        let copied = (self.from_bytes)(engine, bytes);
        copied.map(|code| (None, code)).map_err(|fault| {
            let fault = format!("{fault:#}");
            if is_exhausted(&fault) { CodeError::Exhausted(fault) } else { CodeError::Load { kind: self.name, fault } }
        })
    }
}

/// Whether a fault says that descriptors (23, 24), memory or maps (12), or threads (11) have run out.
fn is_exhausted(fault: &str) -> bool {
    ["(os error 11)", "(os error 12)", "(os error 23)", "(os error 24)"].iter().any(|said| fault.contains(said))
}

#[expect(unsafe_code, reason = "machine code from our own cache, which CodeCache has just verified")]
fn component_from_file(engine: &Engine, file: CodeFile) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by `precompile_component` of an engine with the same compatibility hash. `CodeCache` hands
    // it out open, after its content matched the code that was taken of it with the node's key, and the path leads to that very file. It
    // stays as it is: nobody but this user and root may write to it, and a cache replaces files and never changes them.
    unsafe { Component::deserialize_file(engine, file.path()) }
}

#[expect(unsafe_code, reason = "machine code from our own cache, which CodeCache has just verified")]
fn module_from_file(engine: &Engine, file: CodeFile) -> wasmtime::Result<Module> {
    // SAFETY: as in `component_from_file`, with `precompile_module`.
    unsafe { Module::deserialize_open_file(engine, file.into_file()) }
}

#[expect(unsafe_code, reason = "machine code that was just compiled, or which CodeCache has just verified")]
fn component_from_bytes(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes were made by `precompile_component` of an engine with the same compatibility hash: just now, or they
    // were verified by the node's key.
    unsafe { Component::deserialize(engine, bytes) }
}

#[expect(unsafe_code, reason = "machine code that was just compiled, or which CodeCache has just verified")]
fn module_from_bytes(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Module> {
    // SAFETY: as in `component_from_bytes`, with `precompile_module`.
    unsafe { Module::deserialize(engine, bytes) }
}

fn link_component(engine: &Engine, component: &Component) -> Result<FunctionPre<Host<Preview2>>, CodeError> {
    let fault = |fault: wasmtime::Error| CodeError::Link { kind: "component", fault: format!("{fault:#}") };
    let mut linker = ComponentLinker::<Host<Preview2>>::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(fault)?;
    pre_triggers::add_to_linker::<_, HasSelf<_>>(&mut linker, |host| host).map_err(fault)?;
    let pre = linker.instantiate_pre(component).map_err(fault)?;
    FunctionPre::new(pre).map_err(fault)
}

/// The functions that [`link_command`] gives, by name.
pub(super) fn preview1_names() -> wasmtime::Result<HashSet<String>> {
    let engine = Engine::default();
    let mut linker = Linker::<WasiP1Ctx>::new(&engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |context| context)?;
    let mut store = Store::new(&engine, WasiCtxBuilder::new().build_p1());
    let given: Vec<_> = linker.iter(&mut store).map(|(_, name, _)| name.to_owned()).collect();
    Ok(given.into_iter().collect())
}

fn link_command(engine: &Engine, module: &Module) -> Result<InstancePre<Host<WasiP1Ctx>>, CodeError> {
    let fault = |fault: wasmtime::Error| CodeError::Link { kind: "command module", fault: format!("{fault:#}") };
    if module.get_export("_start").is_none() {
        return Err(fault(wasmtime::format_err!("it has no export `_start`")));
    }
    let mut linker = Linker::<Host<WasiP1Ctx>>::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host| &mut host.wasi).map_err(fault)?;
    // WASI's own takes codes above 125 for a fault of the host.
    linker.allow_shadowing(true);
    let exit = |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) };
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", exit).map_err(fault)?;
    linker.instantiate_pre(module).map_err(fault)
}
