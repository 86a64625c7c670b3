//! What a guest may ask of its host, and in words what to do where it asks for more, or offers something else.
//!
//! Must not: read WebAssembly; names come in, sentences go out.

/// The module of WASI's first preview.
pub(super) const PREVIEW1: &str = "wasi_snapshot_preview1";
/// The packages whose interfaces a component may import.
const PACKAGES: [&str; 7] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
    "forewarm:function/",
];
/// The world of components, and the target of commands.
const WORLD: &str = "build a component of the world forewarm:function/function (wit/), or a command for wasm32-wasip1";

/// Whether a component gets this interface. Of WASI it is 0.2 alone: 0.3 has interfaces of the same names.
pub(super) fn is_given(interface: &str) -> bool {
    PACKAGES.iter().any(|package| interface.starts_with(package))
        && (!interface.starts_with("wasi:") || version(interface).starts_with("0.2."))
}

fn version(interface: &str) -> &str {
    interface.rsplit_once('@').map_or("", |(_, version)| version)
}

/// Why a component is refused that imports this.
pub(super) fn foreign_interface(interface: &str) -> String {
    let advice = if interface.starts_with("wasi:http/") {
        format!(
            "wasi:http is not served: a function gets a call's payload and answers with bytes, and has no network; {WORLD}"
        )
    } else if interface.starts_with("wasi:") && version(interface).starts_with("0.3") {
        format!("WASI 0.3 is not served; {WORLD}")
    } else {
        format!(
            "a component gets WASI 0.2 (cli, clocks, io, random) and forewarm:function/pre-triggers; build it without that \
             import, or {WORLD}"
        )
    };
    format!("it imports {interface}, which is not given here: {advice}")
}

/// Why a command is refused that imports this function.
pub(super) fn foreign_function(module: &str, name: &str) -> String {
    let advice = match module {
        "env" => "; env is what Emscripten and browsers give: build for wasm32-wasip1, with every symbol linked in",
        "wasi_unstable" => "; it is older than that: build with a newer compiler, for wasm32-wasip1",
        _ => "; build for wasm32-wasip1",
    };
    format!("it imports {module}::{name}, which is not given here: a command gets {PREVIEW1}{advice}")
}

/// Whether a component that exports this interface is made for another host.
pub(super) fn is_of_another_world(interface: &str) -> bool {
    interface.starts_with("wasi:cli/run@") || interface.starts_with("wasi:http/")
}

/// Why a component is refused that exports this interface, and nothing of the world of functions.
pub(super) fn another_world(interface: &str) -> String {
    if interface.starts_with("wasi:http/") {
        return format!("it serves HTTP ({interface}), which no call comes by here; {WORLD}");
    }
    let wasi = if version(interface).starts_with("0.3") { "0.3" } else { "0.2" };
    format!(
        "it is a WASI {wasi} command ({interface}), and no component of the world forewarm:function/function; commands are \
         built for wasm32-wasip1 (modules, and no components)"
    )
}
