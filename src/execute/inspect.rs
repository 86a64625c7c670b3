//! A look at an artifact before it is compiled: what it is, what it imports and exports, and how large its parts are.
//!
//! Only headers and the shapes of function bodies are read, which takes milliseconds; so what cannot run here is refused at
//! once, and not after a compilation. Whether types fit is found when the code is linked. Must not: compile, or refuse what
//! the linker and the pool would take, but for the bounds on function bodies.

mod wants;

use std::collections::HashSet;

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind, ComponentType, ComponentTypeRef,
    CompositeInnerType, Encoding, ExternalKind, FunctionBody, InstanceTypeDeclaration, MemoryType, Operator, Parser,
    Payload, TableType, TypeBounds, TypeRef,
};

use self::wants::PREVIEW1;
use super::engine::{MEMORIES_PER_MODULE, TABLE_ELEMENTS, TABLES_PER_GUEST};
use crate::types::FunctionKind;

/// Bytes of one function's body (inclusive): interpreters' largest are a tenth of it.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Loops within one another times local variables of one function (inclusive). A compiler keeps each variable apart at each
/// loop: this product is the memory that it takes.
const LOOPS_TIMES_LOCALS_MAX: u64 = 1_000_000;
/// Bodies of fewer bytes cannot come near that bound.
const BODY_BYTES_HARMLESS: usize = 2 << 10;
/// Components within components.
const NESTING_MAX: usize = 32;

/// What an artifact may be.
pub(super) struct Bounds<'a> {
    /// The largest memory of an instance, in bytes (inclusive).
    pub(super) memory_bytes_max: u64,
    /// The functions of `wasi_snapshot_preview1` that are given to commands.
    pub(super) preview1: &'a HashSet<String>,
}

/// Says why an artifact cannot become a function of this kind; where nothing is known against it, the bytes of the largest linear
/// memory with which it begins.
///
/// # Errors
/// The reason, as a sentence about the artifact.
pub(super) fn inspect(kind: FunctionKind, wasm: &[u8], bounds: &Bounds) -> Result<u64, String> {
    let mut look = Look::new(kind, bounds);
    for payload in Parser::new(0).parse_all(wasm) {
        look.at(payload.map_err(malformed)?)?;
    }
    look.ended()?;
    Ok(look.memory_bytes)
}

fn malformed(fault: BinaryReaderError) -> String {
    format!("it is no valid WebAssembly: {}{}", fault.message(), cut_off(fault.message()))
}

/// What to think of where the parser says that its input ends within something.
fn cut_off(words: &str) -> &'static str {
    if words.contains("unexpected end") { "; the file may have been cut off: build or copy it again" } else { "" }
}

/// One module or component, while its payloads come.
struct Part {
    memories: u32,
    tables: u32,
}

struct Look<'a> {
    kind: FunctionKind,
    bounds: &'a Bounds<'a>,
    /// From the artifact itself inwards; none before its first payload and after its last.
    parts: Vec<Part>,
    /// Of each type of a component: whether an instance of it holds something that the host would have to give.
    wants: Vec<bool>,
    /// Of each type of a command: whether it is that of a function without parameters and results.
    plain: Vec<bool>,
    /// The type of each function of a command.
    functions: Vec<u32>,
    /// Functions that the artifact itself exports, with their numbers.
    exported: Vec<(String, u32)>,
    imports_wasi: bool,
    exports_memory: bool,
    /// An interface of another world that a component exports.
    other_world: Option<String>,
    /// The largest memory with which a module of it begins, in bytes.
    memory_bytes: u64,
}

impl<'a> Look<'a> {
    fn new(kind: FunctionKind, bounds: &'a Bounds<'a>) -> Self {
        Self {
            kind,
            bounds,
            parts: Vec::new(),
            wants: Vec::new(),
            plain: Vec::new(),
            functions: Vec::new(),
            exported: Vec::new(),
            imports_wasi: false,
            exports_memory: false,
            other_world: None,
            memory_bytes: 0,
        }
    }

    /// Whether what is read belongs to the artifact itself, and not to a part of it.
    fn is_outermost(&self) -> bool {
        self.parts.len() == 1
    }

    fn at(&mut self, payload: Payload<'_>) -> Result<(), String> {
        match payload {
            Payload::Version { encoding, .. } => self.begin(encoding)?,
            Payload::End(_) => drop(self.parts.pop()),
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memory(&memory.map_err(malformed)?)?;
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    self.table(&table.map_err(malformed)?.ty)?;
                }
            }
            Payload::CodeSectionEntry(body) => self.body(&body)?,
            payload if !self.is_outermost() => drop(payload),
            payload => match self.kind {
                FunctionKind::Command => self.at_command(payload)?,
                FunctionKind::Component => self.at_component(payload)?,
            },
        }
        Ok(())
    }

    fn begin(&mut self, encoding: Encoding) -> Result<(), String> {
        if self.parts.is_empty() {
            match (self.kind, encoding) {
                (FunctionKind::Command, Encoding::Component) => {
                    return Err(
                        "it is a component, and the definition's kind is command: make that component, or build a \
                                module for wasm32-wasip1"
                            .to_owned(),
                    );
                }
                (FunctionKind::Component, Encoding::Module) => {
                    return Err("it is a module, and the definition's kind is component: make that command, or make it a component \
                                (wasm-tools component new)"
                        .to_owned());
                }
                _ => {}
            }
        }
        if self.parts.len() >= NESTING_MAX {
            return Err(format!("it nests components more than {NESTING_MAX} deep"));
        }
        self.parts.push(Part { memories: 0, tables: 0 });
        Ok(())
    }

    fn at_command(&mut self, payload: Payload<'_>) -> Result<(), String> {
        match payload {
            Payload::TypeSection(types) => {
                for group in types {
                    for ty in group.map_err(malformed)?.types() {
                        let plain = match &ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => ty.params().is_empty() && ty.results().is_empty(),
                            _ => false,
                        };
                        self.plain.push(plain);
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(malformed)?;
                    let (module, name) = (import.module, import.name);
                    let TypeRef::Func(ty) = import.ty else {
                        return Err(format!("it imports {module}::{name}, which is no function: none is given here"));
                    };
                    if module != PREVIEW1 || !self.bounds.preview1.contains(name) {
                        return Err(wants::foreign_function(module, name));
                    }
                    self.imports_wasi = true;
                    self.functions.push(ty);
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions {
                    self.functions.push(ty.map_err(malformed)?);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    match export.kind {
                        ExternalKind::Func => self.exported.push((export.name.to_owned(), export.index)),
                        ExternalKind::Memory => self.exports_memory |= export.name == "memory",
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn at_component(&mut self, payload: Payload<'_>) -> Result<(), String> {
        match payload {
            Payload::ComponentTypeSection(types) => {
                for ty in types {
                    let wants = match ty.map_err(malformed)? {
                        ComponentType::Instance(declarations) => declarations.iter().any(is_wanted),
                        _ => true,
                    };
                    self.wants.push(wants);
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    if let ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, .. }
                    | ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } = alias.map_err(malformed)?
                    {
                        self.wants.push(true);
                    }
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import.map_err(malformed)?;
                    self.import(import.name.name, import.ty)?;
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    match export.kind {
                        ComponentExternalKind::Func => self.exported.push((export.name.name.to_owned(), export.index)),
                        ComponentExternalKind::Type => self.wants.push(true),
                        _ if wants::is_of_another_world(export.name.name) => {
                            self.other_world = Some(export.name.name.to_owned());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An import of the component itself. An instance of types alone is not asked of the host.
    fn import(&mut self, name: &str, ty: ComponentTypeRef) -> Result<(), String> {
        let wanted = match ty {
            ComponentTypeRef::Type(bounds) => {
                self.wants.push(true);
                matches!(bounds, TypeBounds::SubResource)
            }
            ComponentTypeRef::Instance(ty) => self.wants.get(ty as usize).copied().unwrap_or(true),
            _ => true,
        };
        if wanted && !wants::is_given(name) { Err(wants::foreign_interface(name)) } else { Ok(()) }
    }

    fn memory(&mut self, ty: &MemoryType) -> Result<(), String> {
        let Some(part) = self.parts.last_mut() else { return Ok(()) };
        part.memories += 1;
        if part.memories > MEMORIES_PER_MODULE {
            return Err(format!("a module of it has more than {MEMORIES_PER_MODULE} memory"));
        }
        let page = 1_u64.checked_shl(ty.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
        let (bytes, most) = (ty.initial.saturating_mul(page), self.bounds.memory_bytes_max);
        if bytes > most {
            return Err(format!(
                "its memory begins with {bytes} bytes, and execute.instance-memory-bytes-max allows {most}: raise that on every \
                 node, or build it with a smaller one"
            ));
        }
        self.memory_bytes = self.memory_bytes.max(bytes);
        Ok(())
    }

    fn table(&mut self, ty: &TableType) -> Result<(), String> {
        let Some(part) = self.parts.last_mut() else { return Ok(()) };
        part.tables += 1;
        if part.tables > TABLES_PER_GUEST {
            return Err(format!("a module of it has more than {TABLES_PER_GUEST} tables"));
        }
        if ty.initial > TABLE_ELEMENTS as u64 {
            return Err(format!("a table of it begins with {} elements, {TABLE_ELEMENTS} are allowed", ty.initial));
        }
        Ok(())
    }

    fn body(&self, body: &FunctionBody<'_>) -> Result<(), String> {
        let bytes = body.range().len();
        if bytes > BODY_BYTES_MAX {
            return Err(format!("a function of it has {bytes} bytes, {BODY_BYTES_MAX} are allowed"));
        }
        if bytes <= BODY_BYTES_HARMLESS {
            return Ok(());
        }
        let mut locals = 0_u64;
        for declared in body.get_locals_reader().map_err(malformed)? {
            locals += u64::from(declared.map_err(malformed)?.0);
        }
        let mut loops = 0_u64;
        // Of each block around: whether it is a loop.
        let (mut around, mut inside) = (Vec::new(), 0_u64);
        for operator in body.get_operators_reader().map_err(malformed)? {
            match operator.map_err(malformed)? {
                Operator::Loop { .. } => {
                    around.push(true);
                    inside += 1;
                    loops = loops.max(inside);
                }
                Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => around.push(false),
                Operator::End => inside -= u64::from(around.pop() == Some(true)),
                _ => {}
            }
        }
        if loops.saturating_mul(locals) > LOOPS_TIMES_LOCALS_MAX {
            return Err(format!(
                "a function of it has {loops} loops within one another and {locals} local variables, which no compiler \
                 gets through: their product may be {LOOPS_TIMES_LOCALS_MAX}"
            ));
        }
        Ok(())
    }

    fn ended(&self) -> Result<(), String> {
        let exported =
            |name: &str| self.exported.iter().find(|(exported, _)| exported == name).map(|(_, index)| *index);
        match self.kind {
            FunctionKind::Command => {
                let start = exported("_start").ok_or(
                    "it has no export `_start` that is a function: a library (a reactor) has none; build a program with a \
                     main, for wasm32-wasip1",
                )?;
                let ty = self.functions.get(start as usize);
                let plain = ty.and_then(|ty| self.plain.get(*ty as usize)).copied();
                if plain == Some(false) {
                    return Err("its export `_start` has parameters or results, and must have none".to_owned());
                }
                if self.imports_wasi && !self.exports_memory {
                    return Err(format!("it imports {PREVIEW1}, which needs an export `memory`, and has none"));
                }
            }
            FunctionKind::Component => {
                if let (Some(interface), None) = (&self.other_world, exported("handle")) {
                    return Err(wants::another_world(interface));
                }
                let missing = ["init", "handle"].into_iter().find(|name| exported(name).is_none());
                if let Some(name) = missing {
                    return Err(format!(
                        "it has no export `{name}` that is a function, as the world forewarm:function/function asks for"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether an instance type holds more than types.
fn is_wanted(declaration: &InstanceTypeDeclaration<'_>) -> bool {
    let InstanceTypeDeclaration::Export { ty, .. } = declaration else { return false };
    !matches!(ty, ComponentTypeRef::Type(TypeBounds::Eq(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: &[u8] = include_bytes!("../../guests/rust-echo/rust-echo.wasm");
    const GUESTS: [&[u8]; 4] = [
        include_bytes!("../../guests/rust-greet/rust-greet.wasm"),
        include_bytes!("../../guests/rust-order/rust-order.wasm"),
        include_bytes!("../../guests/rust-risk/rust-risk.wasm"),
        include_bytes!("../../guests/hostile/hostile.wasm"),
    ];
    const WORDCOUNT: &[u8] = include_bytes!("../../guests/c-wordcount/c-wordcount.wasm");

    fn look(kind: FunctionKind, wasm: &[u8]) -> Result<(), String> {
        let preview1 = [
            "fd_read",
            "fd_write",
            "proc_exit",
            "fd_close",
            "fd_seek",
            "fd_fdstat_get",
            "environ_get",
            "environ_sizes_get",
        ];
        let preview1 = preview1.into_iter().map(str::to_owned).collect();
        inspect(kind, wasm, &Bounds { memory_bytes_max: 1 << 20, preview1: &preview1 }).map(drop)
    }

    fn refusal(kind: FunctionKind, text: &str) -> String {
        look(kind, &wat::parse_str(text).unwrap()).expect_err(text)
    }

    #[test]
    fn real_guests_pass() {
        for guest in GUESTS.into_iter().chain([ECHO]) {
            let preview1 = HashSet::new();
            let bounds = Bounds { memory_bytes_max: 256 << 20, preview1: &preview1 };
            assert!(inspect(FunctionKind::Component, guest, &bounds).is_ok_and(|memory_bytes| memory_bytes >= 1 << 16));
        }
        let bounds = super::super::code::preview1_names().unwrap();
        let bounds = Bounds { memory_bytes_max: 256 << 20, preview1: &bounds };
        assert!(inspect(FunctionKind::Command, WORDCOUNT, &bounds).is_ok_and(|memory_bytes| memory_bytes >= 1 << 16));
    }

    #[test]
    fn a_command_is_refused_for_each_thing_that_it_lacks_or_wants() {
        let cases = [
            (r#"(module (func (export "main")))"#, "no export `_start`"),
            (r#"(module (func (export "_start") (param i32)))"#, "has parameters or results"),
            (r#"(module (global (export "_start") i32 (i32.const 0)))"#, "no export `_start` that is a function"),
            (r#"(module (import "env" "abort" (func)) (func (export "_start")))"#, "env::abort"),
            (
                r#"(module (import "wasi_unstable" "fd_write" (func)) (func (export "_start")))"#,
                "wasi_unstable::fd_write",
            ),
            (
                r#"(module (import "env" "memory" (memory 1)) (func (export "_start")))"#,
                "env::memory, which is no function",
            ),
            (
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#,
                "needs an export `memory`",
            ),
            (r#"(module (memory 17) (func (export "_start")))"#, "begins with 1114112 bytes"),
            (r#"(module (memory 1) (memory 1) (func (export "_start")))"#, "more than 1 memory"),
            (r#"(module (table 200000 funcref) (func (export "_start")))"#, "200000 elements"),
        ];
        for (text, words) in cases {
            let said = refusal(FunctionKind::Command, text);
            assert!(said.contains(words), "{text}: {said}");
        }
        assert!(look(FunctionKind::Command, ECHO).unwrap_err().contains("it is a component"));
        assert!(look(FunctionKind::Command, b"#!/bin/sh").unwrap_err().contains("no valid WebAssembly"));
        assert!(look(FunctionKind::Command, &WORDCOUNT[..WORDCOUNT.len() / 2]).unwrap_err().contains("cut off"));
    }

    #[test]
    fn a_component_is_refused_for_its_imports_and_its_exports_but_not_for_types() {
        let component = |text: &str| refusal(FunctionKind::Component, text);
        let said = component(r#"(component (import "wasi:http/types@0.2.0" (instance (export "f" (func)))))"#);
        assert!(
            said.contains("wasi:http/types@0.2.0, which is not given") && said.contains("wasi:http is not served"),
            "{said}"
        );
        let said = component(r#"(component (import "wasi:cli/stdout@0.3.0" (instance (export "f" (func)))))"#);
        assert!(said.contains("wasi:cli/stdout@0.3.0") && said.contains("WASI 0.3 is not served"), "{said}");
        let http = r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#;
        let run =
            |version: &str| format!(r#"(component (instance $i) (export "wasi:cli/run@{version}" (instance $i)))"#);
        assert!(component(http).contains("serves HTTP") && component(&run("0.2.3")).contains("a WASI 0.2 command"));
        assert!(component(&run("0.3.0-rc-2025-09-16")).contains("a WASI 0.3 command"));
        // Types alone need nobody to give them.
        let said = component(r#"(component (import "my:own/types" (instance (type u32) (export "t" (type (eq 0))))))"#);
        assert!(said.contains("no export `init`"), "{said}");
        let said = component(r#"(component (import "my:own/things" (instance (export "f" (func)))))"#);
        assert!(said.contains("my:own/things"), "{said}");
        assert!(look(FunctionKind::Component, WORDCOUNT).unwrap_err().contains("it is a module"));
    }

    #[test]
    fn loops_within_loops_over_many_variables_are_refused_at_once() {
        let nested = |loops: usize, locals: usize| {
            let (begin, end) = ("(loop ".repeat(loops), ")".repeat(loops));
            let locals = "i32 ".repeat(locals);
            format!(r#"(module (func (export "_start") (local {locals}) {begin} {end}))"#)
        };
        assert!(refusal(FunctionKind::Command, &nested(1_200, 1_000)).contains("1200 loops within one another"));
        assert_eq!(look(FunctionKind::Command, &wat::parse_str(nested(700, 1_000)).unwrap()), Ok(()));
    }
}
