//! `[execute]` and `[artifacts]`: where code comes from, and what guests may take of this machine.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The keys of `[artifacts]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Artifacts {
    /// The directory store: `store:` artifacts are files in it, named by their digest.
    pub directory: PathBuf,
    /// The largest artifact, in bytes (inclusive).
    pub bytes_max: NonZeroU64,
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
    /// Bytes of linear memory that all instances together may hold before idle ones are given up.
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
    /// Bytes of a command's memory that are touched while it is prepared.
    pub touch_bytes_max: u64,
    /// Instances that are prepared ahead at once; 0: half the cores.
    pub prepare_concurrency: usize,
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
            touch_bytes_max: 1 << 20,
            prepare_concurrency: 0,
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
            self.memory_bytes_max >= self.instance_memory_bytes_max,
            "execute.memory-bytes-max must not be below execute.instance-memory-bytes-max",
        );
        check(self.worker_threads <= 1_024, "execute.worker-threads must be at most 1024");
        faults
    }
}
