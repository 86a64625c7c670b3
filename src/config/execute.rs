//! `[execute]` and `[artifacts]`: where code comes from, and what guests may take of this machine.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[artifacts]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Artifacts {
    /// Where `function deploy` puts artifacts.
    pub store: Store,
    /// The directory store: `store:` artifacts are files in it, named by their digest.
    pub directory: PathBuf,
    /// The largest artifact, in bytes (inclusive).
    pub bytes_max: NonZeroU64,
    /// Folders below which `file://` artifacts may lie, as absolute paths; empty: there are no such artifacts.
    pub file_roots: Vec<PathBuf>,
    /// How long reading one artifact may take.
    #[serde(with = "super::humantime_text")]
    pub read_timeout: Duration,
}

impl Artifacts {
    pub(super) fn faults(&self) -> Vec<String> {
        let relative = self.file_roots.iter().filter(|root| !root.is_absolute());
        let mut faults: Vec<_> = relative
            .map(|root| format!("artifacts.file-roots must be absolute paths, and {} is none", root.display()))
            .collect();
        if self.read_timeout.is_zero() {
            faults.push("artifacts.read-timeout must be above 0s".to_owned());
        }
        faults
    }
}

/// Where `function deploy` puts artifacts. Nodes read both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// `topics.artifacts`, or the tenant's own topic: whoever reaches the brokers has it.
    Topic,
    /// `artifacts.directory`, which nodes and commands must share.
    Directory,
}

/// The keys of `[execute]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Execute {
    /// Where compiled machine code is kept.
    pub cache_directory: PathBuf,
    /// Bytes that it may take; the least recently used goes first.
    pub cache_bytes_max: u64,
    /// Instances that live at once (inclusive); 0: 1,000. Never more than `vm.max_map_count` allows.
    pub instances_max: u32,
    /// The share of these instances, and of `memory_bytes_max`, that one function may hold; above 0.0, at most 1.0.
    pub function_instances_share_max: f64,
    /// Bytes that all instances together may hold (inclusive), those in which calls run among them. [`load`](super::load) puts
    /// a part of the machine's memory in place of 0.
    pub memory_bytes_max: u64,
    /// The largest linear memory of one instance, in bytes (inclusive): a function's own limit may be lower.
    pub instance_memory_bytes_max: u64,
    /// Threads that run guests; 0: one a core.
    pub worker_threads: usize,
    /// A guest that computes yields this often.
    #[serde(with = "super::humantime_text")]
    pub epoch_interval: Duration,
    /// A function whose calls take this long or less on average runs on the thread that received the call.
    #[serde(with = "super::humantime_text")]
    pub inline_max: Duration,
    /// How long `init` may take.
    #[serde(with = "super::humantime_text")]
    pub init_timeout: Duration,
    /// How long calls wait for a function that cannot run.
    #[serde(with = "super::humantime_text")]
    pub unavailable_after: Duration,
    /// How long calls of a function that is removed, disabled or replaced may go on.
    #[serde(with = "super::humantime_text")]
    pub removal_grace: Duration,
    /// Bytes of a command's memory that are touched while it is prepared.
    pub touch_bytes_max: u64,
    /// Instances that are prepared ahead at once; 0: half the cores.
    pub prepare_concurrency: usize,
    /// Memory that compiling one artifact may take, in bytes (inclusive).
    pub compile_memory_bytes_max: u64,
    /// CPU time that compiling one artifact may take, over all its threads.
    #[serde(with = "super::humantime_text")]
    pub compile_cpu_time_max: Duration,
    /// How long compiling one artifact may take by the clock.
    #[serde(with = "super::humantime_text")]
    pub compile_timeout: Duration,
    /// The program that compiles, as `PROGRAM compile-worker …`; empty: the one that runs. It must be of the same build.
    pub compile_program: PathBuf,
}

impl Default for Execute {
    fn default() -> Self {
        Self {
            cache_directory: "forewarm-data/code".into(),
            cache_bytes_max: 4 << 30,
            instances_max: 0,
            function_instances_share_max: 0.5,
            memory_bytes_max: 4 << 30,
            instance_memory_bytes_max: 256 << 20,
            worker_threads: 0,
            epoch_interval: Duration::from_millis(2),
            inline_max: Duration::from_micros(100),
            init_timeout: Duration::from_secs(10),
            unavailable_after: Duration::from_secs(60),
            removal_grace: Duration::from_secs(30),
            touch_bytes_max: 1 << 20,
            prepare_concurrency: 0,
            compile_memory_bytes_max: 1 << 30,
            compile_cpu_time_max: Duration::from_mins(2),
            compile_timeout: Duration::from_mins(5),
            compile_program: PathBuf::new(),
        }
    }
}

impl Execute {
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let (least, most) = (Duration::from_micros(100), Duration::from_secs(1));
        check((least..=most).contains(&self.epoch_interval), "execute.epoch-interval must be from 100us to 1s");
        check(
            self.function_instances_share_max > 0.0 && self.function_instances_share_max <= 1.0,
            "execute.function-instances-share-max must be above 0 and at most 1",
        );
        check(!self.init_timeout.is_zero(), "execute.init-timeout must be above 0s");
        check(
            self.instance_memory_bytes_max >= 65_536 && self.instance_memory_bytes_max <= 4 << 30,
            "execute.instance-memory-bytes-max must be from 65536 (one page) to 4294967296 (4 GiB)",
        );
        check(
            self.memory_bytes_max == 0 || self.memory_bytes_max >= self.instance_memory_bytes_max,
            "execute.memory-bytes-max must not be below execute.instance-memory-bytes-max",
        );
        check(
            self.compile_memory_bytes_max >= 128 << 20,
            "execute.compile-memory-bytes-max must not be below 134217728 (128 MiB): the compiler itself takes that",
        );
        let second = Duration::from_secs(1);
        check(self.compile_cpu_time_max >= second, "execute.compile-cpu-time-max must not be below 1s");
        check(self.compile_timeout >= second, "execute.compile-timeout must not be below 1s");
        check(self.worker_threads <= 1_024, "execute.worker-threads must be at most 1024");
        faults
    }
}
