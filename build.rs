//! Has the linker put this program's bounded unpacking of gzip in the place of librdkafka's, which has no bound (see
//! src/kafka/unpack.rs). Must not: build anything.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let has_service = std::env::var_os("CARGO_FEATURE_SERVICE").is_some();
    let is_linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    // An option of GNU's linkers and LLVM's. Elsewhere librdkafka's own function stays.
    if has_service && is_linux {
        println!("cargo:rustc-link-arg=-Wl,--wrap=rd_gz_decompress");
    }
}
