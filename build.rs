//! Has the linker put this program's bounded unpacking of gzip in the place of librdkafka's, which has no bound (see
//! src/kafka/unpack.rs), and finds out which Wasmtime is in it. Must not: build anything.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let version = wasmtime_version().unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=FOREWARM_WASMTIME_VERSION={version}");
    let has_service = std::env::var_os("CARGO_FEATURE_SERVICE").is_some();
    let is_linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    // An option of GNU's linkers and LLVM's. Elsewhere librdkafka's own function stays.
    if has_service && is_linux {
        println!("cargo:rustc-link-arg=-Wl,--wrap=rd_gz_decompress");
    }
}

/// Wasmtime does not say its version; the lock file does.
fn wasmtime_version() -> Option<String> {
    let lock = std::fs::read_to_string("Cargo.lock").ok()?;
    let (_, package) = lock.split_once("name = \"wasmtime\"\nversion = \"")?;
    package.split('"').next().map(str::to_owned)
}
