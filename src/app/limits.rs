//! What the process may have of the machine: limits that it raises, that it sets for itself, and that it says are short.
//!
//! Met while it runs, a limit looks like a fault of whatever met it. Must not: end the process; a node may get by with less
//! than is reckoned here. `execute` reckons with `vm.max_map_count` itself, as a process past it aborts.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::config::Config;

/// Files that a node has open: clients and their brokers, topics' readers, artifacts that are read, connections of the admin
/// interface.
const FILES: u64 = 1_024;
/// Threads besides those of the guests: the service's own, librdkafka's, those that read files and compile.
const THREADS: u64 = 128;
/// Instances where `execute.instances-max` is 0.
const INSTANCES_DEFAULT: u64 = 1_000;
/// Address space of one memory of the pool, whether it is used or not.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// Memories that the pool has for an instance.
const MEMORIES_PER_INSTANCE: u64 = 2;

/// Limits as they are; None where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    files: Option<u64>,
    threads: Option<u64>,
    address_space_bytes: Option<u64>,
}

/// Raises what may be raised, forbids cores unless the configuration allows them, and says what is short.
pub(super) fn settle(config: &Config) {
    if let Err(error) = raise_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    if !config.node.core_dumps {
        told(forbid_cores());
    }
    let limits = Limits {
        files: getrlimit(Resource::Nofile).current,
        threads: fewest([getrlimit(Resource::Nproc).current, cgroups_threads()]),
        address_space_bytes: getrlimit(Resource::As).current,
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let instances = match config.execute.instances_max {
        0 => INSTANCES_DEFAULT,
        instances => u64::from(instances),
    };
    tracing::debug!(?limits, cores, instances, "limits of this process");
    for short in shortages(limits, cores, instances) {
        tracing::warn!("{short}");
    }
}

/// Every limit that is below what a node needs.
fn shortages(limits: Limits, cores: u64, instances: u64) -> Vec<String> {
    let is_short = |limit: Option<u64>, need| limit.filter(|limit| *limit < need);
    let threads = THREADS + 2 * cores;
    let address_space_bytes = instances.saturating_mul(MEMORIES_PER_INSTANCE).saturating_mul(MEMORY_RESERVATION_BYTES);
    let mut short = Vec::new();
    if let Some(files) = is_short(limits.files, FILES) {
        short.push(format!(
            "the process may have {files} files open at once (RLIMIT_NOFILE, its hard limit) and needs up to {FILES}: without \
             them functions do not load and brokers are not reached; raise it (systemd: LimitNOFILE; Docker: --ulimit nofile)"
        ));
    }
    if let Some(most) = is_short(limits.threads, threads) {
        short.push(format!(
            "the process may have {most} threads (RLIMIT_NPROC, or its cgroup's pids.max) and needs up to {threads}; raise it \
             (systemd: TasksMax; Docker: --pids-limit)"
        ));
    }
    if let Some(bytes) = is_short(limits.address_space_bytes, address_space_bytes) {
        short.push(format!(
            "the process may have {bytes} bytes of address space (RLIMIT_AS), and {instances} instances reserve \
             {address_space_bytes}, which costs no memory: lift the limit, or lower execute.instances-max"
        ));
    }
    short
}

fn fewest(limits: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    limits.into_iter().flatten().min()
}

/// Raises the soft limit of open files to the hard one: the soft one is low for the sake of select(2), which nothing here calls.
fn raise_files() -> rustix::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
}

/// From here on nobody but root may look into this process, unless the configuration allows it. Only after Wasmtime's pool is there:
/// it opens `/proc/self/pagemap`, which is root's from then on.
pub(super) fn close(config: &Config) {
    if !config.node.core_dumps {
        told(close_memory());
    }
}

/// The process and what it starts leave no core, and nobody but root may look into this process. A process that it starts has to
/// do this anew, as execve(2) opens it again.
///
/// # Errors
/// The system's own.
pub fn forbid_core_dumps() -> rustix::io::Result<()> {
    forbid_cores()?;
    close_memory()
}

fn forbid_cores() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

/// A handler of cores (kernel.core_pattern with a pipe) is asked in spite of the limit, but not for such a process.
fn close_memory() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

fn told(done: rustix::io::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(%error, "this process may leave core dumps, with payloads and secrets in them");
    }
}

/// The fewest threads that a cgroup of this process allows.
fn cgroups_threads() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = pids_files(&own).map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    fewest(limits)
}

/// Where the limits of threads stand of the cgroups in `/proc/self/cgroup`, of both versions; in a container the file of the
/// hierarchy's root is its own.
fn pids_files(cgroups: &str) -> impl Iterator<Item = String> {
    cgroups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("/"));
        let root = match controllers {
            "" => Some("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|controller| controller == "pids") => Some("/sys/fs/cgroup/pids"),
            _ => None,
        };
        root.into_iter()
            .flat_map(|root| [format!("{root}{}/pids.max", path.trim_end_matches('/')), format!("{root}/pids.max")])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_is_named_with_what_to_do() {
        let enough = Limits { files: Some(1_024), threads: Some(132), address_space_bytes: Some(8_000 << 30) };
        assert_eq!(shortages(enough, 2, 1_000), Vec::<String>::new());
        assert_eq!(shortages(Limits::default(), 64, 100_000), Vec::<String>::new());
        let short = Limits { files: Some(300), threads: Some(131), address_space_bytes: Some(512 << 30) };
        let said = shortages(short, 2, 1_000);
        for (said, words) in
            said.iter().zip([["300 files", "LimitNOFILE"], ["131 threads", "TasksMax"], ["address", "instances-max"]])
        {
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        assert_eq!(said.len(), 3);
    }

    #[test]
    fn the_limit_of_threads_is_found_in_both_versions_of_cgroups() {
        let both = "12:pids:/docker/abc\n5:cpu,cpuacct:/x\n0::/system.slice/forewarm.service\n";
        let files: Vec<String> = pids_files(both).collect();
        assert_eq!(
            files,
            [
                "/sys/fs/cgroup/pids/docker/abc/pids.max",
                "/sys/fs/cgroup/pids/pids.max",
                "/sys/fs/cgroup/system.slice/forewarm.service/pids.max",
                "/sys/fs/cgroup/pids.max",
            ]
        );
        assert_eq!(pids_files("0::/\n").next().unwrap(), "/sys/fs/cgroup/pids.max");
    }

    #[test]
    fn the_soft_limit_of_files_becomes_the_hard_one() {
        raise_files().unwrap();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
