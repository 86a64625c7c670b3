//! The process that compiles: WebAssembly on stdin, machine code on stdout, words on stderr.
//!
//! Must not: read a configuration, or anything else but its arguments and stdin.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use super::confine::{self, Allowance};
use super::{EX_DATAERR, EX_OSERR, EX_PROTOCOL, Kind};
use crate::execute::{code, engine};

/// The arguments of the process, as [`super::Compiler`] gives them.
#[derive(Clone, Debug, clap::Args)]
pub struct Worker {
    /// What is compiled.
    #[arg(long, value_enum)]
    kind: Kind,
    /// The engine for which it is compiled.
    #[arg(long)]
    engine: u64,
    /// Memory, in bytes.
    #[arg(long)]
    memory_bytes_max: u64,
    /// CPU time, in whole seconds.
    #[arg(long)]
    cpu_time_max_s: u64,
    /// Machine code, in bytes.
    #[arg(long)]
    output_bytes_max: u64,
    /// How far it stands back for other processes.
    #[arg(long)]
    nice: i32,
}

impl Worker {
    /// Confines this process, and compiles. To be called before anything else is opened or started.
    pub fn run(&self) -> ExitCode {
        match self.compile() {
            Ok(()) => ExitCode::SUCCESS,
            Err((status, words)) => {
                // Nobody can be told where this fails; the status says enough.
                let _ = io::stderr().write_all(words.as_bytes());
                ExitCode::from(status)
            }
        }
    }

    fn compile(&self) -> Result<(), (u8, String)> {
        let system = |fault: io::Error| (EX_OSERR, fault.to_string());
        let allowance = Allowance {
            memory_bytes: self.memory_bytes_max,
            cpu_time: Duration::from_secs(self.cpu_time_max_s),
            output_bytes: self.output_bytes_max,
            nice: self.nice,
        };
        confine::confine(&allowance).map_err(system)?;
        let engine = engine::compiler().map_err(|fault| (EX_OSERR, format!("{fault:#}")))?;
        if code::engine_hash(&engine) != self.engine {
            return Err((EX_PROTOCOL, "the program that compiles is of another build than the service".to_owned()));
        }
        let mut wasm = Vec::new();
        io::stdin().lock().read_to_end(&mut wasm).map_err(system)?;
        let code = match self.kind {
            Kind::Component => engine.precompile_component(&wasm),
            Kind::Command => engine.precompile_module(&wasm),
        };
        let code = code.map_err(|fault| (EX_DATAERR, format!("{fault:#}")))?;
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(system)?;
        File::from(stdout).write_all(&code).map_err(system)
    }
}
