//! Compiles artifacts in a process of its own, within limits of memory and time.
//!
//! Compiling is work on input of others of which nobody knows the end: 33 kB can take gigabytes and minutes. So it happens
//! in a child of the same program that is ended at its limits, and the service's own memory does not grow by it. Must not:
//! fetch artifacts, keep code, or decide when something is compiled.

mod children;
mod confine;
mod lanes;
mod worker;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use self::children::Running;
pub use self::children::reap_orphans;
pub(super) use self::lanes::Lane;
pub use self::worker::Worker;
use crate::config::Execute;
use crate::types::FunctionKind;

/// The name of the hidden command.
pub const COMMAND: &str = "compile-worker";

/// Exit statuses of the child, after BSD's sysexits: its input cannot be compiled, the system failed, it is another build.
const EX_DATAERR: u8 = 65;
const EX_OSERR: u8 = 71;
const EX_PROTOCOL: u8 = 76;
/// How often it is looked whether anybody still wants the code.
const LOOK: Duration = Duration::from_millis(200);
/// What is kept of the child's words.
const WORDS_BYTES_MAX: u64 = 4 << 10;
/// Machine code is at most so many times as long as its WebAssembly, and so many bytes longer; real code is three to ten
/// times as long.
const CODE_TIMES_MAX: u64 = 32;
const CODE_BYTES_MORE: u64 = 16 << 20;
/// Threads of one compilation.
const THREADS_MAX: usize = 4;

/// What is compiled, as the child is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Component,
    Command,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Component => "component",
            Self::Command => "command",
        })
    }
}

/// What one compilation may take. All bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    pub(super) memory_bytes: u64,
    pub(super) cpu_time: Duration,
    pub(super) wall_time: Duration,
}

/// A limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Memory,
    CpuTime,
    WallTime,
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CompileError {
    /// The compiler's own words.
    #[error("{0}")]
    Refused(String),
    /// It took more than it may.
    #[error("{}", over(*.0, .1))]
    Over(Limit, Limits),
    /// The compiler came to an end that it must not come to.
    #[error("the compiler broke down on it ({0})")]
    Broke(String),
    /// Something ended the compiler that was none of its limits: the kernel where memory runs out, or a person.
    #[error("the process that compiled it was ended by the system (signal 9), as it happens where memory runs out")]
    Killed,
    /// Nobody wants it any more.
    #[error("nobody wants the code any more")]
    Unwanted,
    /// The process cannot be started, or is of another build: no fault of the artifact's.
    #[error("nothing can be compiled here: {0}")]
    Host(String),
}

fn over(limit: Limit, limits: &Limits) -> String {
    match limit {
        Limit::Memory => format!(
            "compiling took more than {} MiB of memory (execute.compile-memory-bytes-max)",
            limits.memory_bytes >> 20
        ),
        Limit::CpuTime => format!(
            "compiling took more than {} s of CPU time (execute.compile-cpu-time-max)",
            limits.cpu_time.as_secs()
        ),
        Limit::WallTime => {
            format!("compiling was not done within {} s (execute.compile-timeout)", limits.wall_time.as_secs())
        }
    }
}

/// Starts the processes that compile.
pub(super) struct Compiler {
    program: PathBuf,
    engine: u64,
    threads: usize,
}

impl Compiler {
    /// One for the engine with this hash.
    pub(super) fn new(config: &Execute, engine: u64) -> Self {
        let this = Path::new("/proc/self/exe");
        let program = if !config.compile_program.as_os_str().is_empty() {
            config.compile_program.clone()
        } else if this.exists() {
            // The file that runs, even where another one stands in its place meanwhile.
            this.to_owned()
        } else {
            // Where nobody knows it, starting the process fails and says so.
            std::env::current_exe().unwrap_or_default()
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { program, engine, threads: cores.min(THREADS_MAX) }
    }

    /// Compiles, and blocks until it is done, failed, or not `wanted` any more.
    ///
    /// # Errors
    /// See [`CompileError`].
    pub(super) fn compile(
        &self,
        kind: FunctionKind,
        wasm: &[u8],
        limits: &Limits,
        nice: i32,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u8>, CompileError> {
        let host = |fault: io::Error| CompileError::Host(fault.to_string());
        let file = |name: &str| Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?));
        let mut input: File = file("wasm").map_err(host)?;
        input.write_all(wasm).and_then(|()| input.rewind()).map_err(host)?;
        let (mut code, mut words): (File, File) = (file("code").map_err(host)?, file("words").map_err(host)?);
        let output_bytes = (wasm.len() as u64).saturating_mul(CODE_TIMES_MAX) + CODE_BYTES_MORE;
        let mut command = self.command(kind, limits, output_bytes, nice);
        command.stdin(input).stdout(stdio(&code).map_err(host)?).stderr(stdio(&words).map_err(host)?);
        let mut running = Running::start(&mut command).map_err(host)?;
        // The descriptors that belong to the child go with it.
        drop(command);
        let ended = wait(&mut running, limits.wall_time, wanted);
        let status = running.status().map_err(host)?;
        ended?;
        let mut said = String::new();
        let read = words.rewind().and_then(|()| words.take(WORDS_BYTES_MAX).read_to_string(&mut said));
        // Words that are not text say nothing; the status does.
        drop(read);
        judge(status, said.trim(), *limits)?;
        let mut bytes = Vec::new();
        code.rewind().and_then(|()| code.read_to_end(&mut bytes)).map_err(host)?;
        let expected = match kind {
            FunctionKind::Component => wasmtime::Precompiled::Component,
            FunctionKind::Command => wasmtime::Precompiled::Module,
        };
        if wasmtime::Engine::detect_precompiled(&bytes) != Some(expected) {
            let program = self.program.display();
            return Err(CompileError::Host(format!(
                "{program} is no forewarm of this build (execute.compile-program)"
            )));
        }
        Ok(bytes)
    }

    fn command(&self, kind: FunctionKind, limits: &Limits, output_bytes: u64, nice: i32) -> Command {
        let kind = match kind {
            FunctionKind::Component => Kind::Component,
            FunctionKind::Command => Kind::Command,
        };
        let mut command = Command::new(&self.program);
        command
            .arg(COMMAND)
            .args(["--kind", &kind.to_string()])
            .args(["--engine", &self.engine.to_string()])
            .args(["--memory-bytes-max", &limits.memory_bytes.to_string()])
            .args(["--cpu-time-max-s", &limits.cpu_time.as_secs().max(1).to_string()])
            .args(["--output-bytes-max", &output_bytes.to_string()])
            .args(["--nice", &nice.to_string()])
            // No credentials of the service's go along. One arena a thread would be address space for nothing.
            .env_clear()
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .env("MALLOC_ARENA_MAX", "2")
            .current_dir("/")
            // Ctrl-C at a terminal means the service.
            .process_group(0);
        command
    }
}

fn stdio(file: &File) -> io::Result<Stdio> {
    Ok(Stdio::from(file.try_clone()?))
}

/// Waits for the child, and ends it where it is too late or nobody wants its code.
fn wait(running: &mut Running, wall_time: Duration, wanted: &dyn Fn() -> bool) -> Result<(), CompileError> {
    let begun = Instant::now();
    loop {
        let left = wall_time.saturating_sub(begun.elapsed());
        if running.wait(left.min(LOOK)) {
            return Ok(());
        }
        let unwanted = !wanted();
        if unwanted || left.is_zero() {
            running.kill();
            let late = Limits { memory_bytes: 0, cpu_time: Duration::ZERO, wall_time };
            return Err(if unwanted { CompileError::Unwanted } else { CompileError::Over(Limit::WallTime, late) });
        }
    }
}

/// How it ended, by the child's status and words.
fn judge(status: ExitStatus, words: &str, limits: Limits) -> Result<(), CompileError> {
    const OUT_OF_MEMORY: [&str; 5] =
        ["memory allocation of", "out of memory", "Cannot allocate memory", "os error 12", "failed to allocate"];
    let first = || words.lines().next().unwrap_or_default().to_owned();
    let dataerr = i32::from(EX_DATAERR);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (_, Some(libc::SIGXCPU)) => Err(CompileError::Over(Limit::CpuTime, limits)),
        (_, Some(libc::SIGXFSZ)) => Err(CompileError::Broke("its machine code is far too long".to_owned())),
        (_, Some(libc::SIGKILL)) => Err(CompileError::Killed),
        (_, Some(libc::SIGSYS)) => {
            Err(CompileError::Host("a filter of system calls ends the process that compiles (signal 31)".to_owned()))
        }
        _ if OUT_OF_MEMORY.iter().any(|said| words.contains(said)) => Err(CompileError::Over(Limit::Memory, limits)),
        (Some(code), _) if code == dataerr => Err(CompileError::Refused(advised(words))),
        (Some(101), _) | (_, Some(_)) => Err(CompileError::Broke(format!("{status}: {}", first()))),
        _ => Err(CompileError::Host(format!("{status}: {}", first()))),
    }
}

/// The compiler's words, with what to do where it is about a proposal that is not given here.
fn advised(words: &str) -> String {
    let advice = match words {
        _ if words.contains("exceptions proposal not enabled") => {
            "WebAssembly's exceptions are not given here: build without exceptions and setjmp (wasi-sdk: -fno-exceptions, and \
             no -mllvm -wasm-enable-sjlj; Rust: panic = \"abort\")"
        }
        _ if words.contains("not enabled") || words.contains("is disabled") => {
            "this proposal of WebAssembly is not given here: build for wasm32-wasip1 with the compiler's usual features"
        }
        _ => return words.to_owned(),
    };
    format!("{words}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { memory_bytes: 1 << 30, cpu_time: Duration::from_secs(120), wall_time: Duration::from_secs(300) };

    #[test]
    fn each_end_of_the_compiler_has_its_words() {
        let signal = ExitStatus::from_raw;
        let exit = |code: u8| ExitStatus::from_raw(i32::from(code) << 8);
        let said = |status, words| judge(status, words, LIMITS).map_err(|fault| fault.to_string());
        assert_eq!(said(exit(0), ""), Ok(()));
        let memory = "compiling took more than 1024 MiB of memory (execute.compile-memory-bytes-max)";
        assert_eq!(said(signal(libc::SIGABRT), "memory allocation of 64 bytes failed"), Err(memory.to_owned()));
        let time = "compiling took more than 120 s of CPU time (execute.compile-cpu-time-max)";
        assert_eq!(said(signal(libc::SIGXCPU), ""), Err(time.to_owned()));
        assert_eq!(said(exit(EX_DATAERR), "bad magic"), Err("bad magic".to_owned()));
        let exceptions = said(exit(EX_DATAERR), "exceptions proposal not enabled (at offset 0x47)").unwrap_err();
        assert!(exceptions.contains("build without exceptions"), "{exceptions}");
        assert!(matches!(judge(signal(libc::SIGKILL), "", LIMITS), Err(CompileError::Killed)));
        assert!(matches!(judge(signal(libc::SIGSEGV), "", LIMITS), Err(CompileError::Broke(_))));
        assert!(matches!(judge(exit(101), "thread panicked", LIMITS), Err(CompileError::Broke(_))));
        // A program that knows no such command, and one of another build.
        assert!(matches!(judge(exit(2), "usage", LIMITS), Err(CompileError::Host(_))));
        assert!(matches!(judge(exit(EX_PROTOCOL), "another build", LIMITS), Err(CompileError::Host(_))));
    }
}
