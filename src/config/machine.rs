//! How much memory this process may have, and the budgets that are reckoned from it where none is given.
//!
//! The memory is what the machine has, or the lowest limit of the control groups (v1 and v2) that the process is in and that
//! stand above it. Must not: keep watch; it is read once, at the start.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Execute, Ingest, TargetConfig};

/// `execute.memory-bytes-max` as a share of the memory: what is left is for everything that is not a guest.
const GUESTS_SHARE: Share = Share { of: 2, bytes_max: u64::MAX };
/// `target.memory-budget-bytes`: a part of the guests' memory, which calls that run need as well.
const WARM_SHARE: Share = Share { of: 4, bytes_max: u64::MAX };
/// `ingest.in-flight-bytes-max`. More is of no use: it would only wait here instead of on the brokers.
const IN_FLIGHT_SHARE: Share = Share { of: 16, bytes_max: 256 << 20 };

/// One part of so many, at most so many bytes.
#[derive(Clone, Copy)]
struct Share {
    of: u64,
    bytes_max: u64,
}

impl Share {
    fn part(self, bytes: u64) -> u64 {
        (bytes / self.of).clamp(1, self.bytes_max)
    }
}

/// Where a [`Machine`]'s number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MemorySource {
    /// Neither could be read: a number that nearly every machine has.
    #[default]
    Assumed,
    /// The machine has no more.
    Physical,
    /// A control group allows no more.
    ControlGroup,
}

/// What this process may have of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What says so.
    pub source: MemorySource,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, source: MemorySource::Assumed }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            MemorySource::Assumed => "assumed, as /proc/meminfo cannot be read",
            MemorySource::Physical => "what the machine has",
            MemorySource::ControlGroup => "the limit of its control group",
        };
        write!(f, "{} bytes of memory ({source})", self.memory_bytes)
    }
}

impl Machine {
    /// What /proc and /sys say. Where they cannot be read, as on other systems, a number is assumed.
    pub fn here() -> Self {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        let files = limit_files(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let limits = files.iter().filter_map(|file| limit(&read(file)?));
        Self::of(physical(&text("/proc/meminfo")), limits.min())
    }

    fn of(physical_bytes: Option<u64>, limit_bytes: Option<u64>) -> Self {
        match (physical_bytes, limit_bytes) {
            (None, None) => Self::default(),
            (Some(physical), None) => Self { memory_bytes: physical, source: MemorySource::Physical },
            (Some(physical), Some(limit)) if physical <= limit => {
                Self { memory_bytes: physical, source: MemorySource::Physical }
            }
            (_, Some(limit)) => Self { memory_bytes: limit, source: MemorySource::ControlGroup },
        }
    }

    /// `execute.memory-bytes-max` where none is given: half.
    pub fn guests_bytes(&self) -> u64 {
        GUESTS_SHARE.part(self.memory_bytes)
    }

    /// `target.memory-budget-bytes` where none is given: a quarter.
    pub fn warm_bytes(&self) -> u64 {
        WARM_SHARE.part(self.memory_bytes)
    }

    /// `ingest.in-flight-bytes-max` where none is given: a sixteenth, and 256 MiB at most.
    pub fn in_flight_bytes(&self) -> u64 {
        IN_FLIGHT_SHARE.part(self.memory_bytes)
    }
}

/// The budgets of memory as they are in force: the given ones, and those by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budgets {
    /// What they were reckoned from.
    pub machine: Machine,
    /// Each key with its bytes, and whether the user gave it.
    pub keys: [(&'static str, u64, bool); 3],
}

impl Budgets {
    /// Puts what the machine allows in place of every 0.
    pub fn settle(machine: Machine, execute: &mut Execute, target: &mut TargetConfig, ingest: &mut Ingest) -> Self {
        let settle = |key, value: &mut u64, by_machine: u64| {
            let is_given = *value != 0;
            if !is_given {
                *value = by_machine;
            }
            (key, *value, is_given)
        };
        let guests = settle("execute.memory-bytes-max", &mut execute.memory_bytes_max, machine.guests_bytes());
        // Where the guests were given less, they are not to be warm with more.
        let warm = machine.warm_bytes().min(guests.1);
        let warm = settle("target.memory-budget-bytes", &mut target.memory_budget_bytes, warm);
        let in_flight =
            settle("ingest.in-flight-bytes-max", &mut ingest.in_flight_bytes_max, machine.in_flight_bytes());
        Self { machine, keys: [guests, warm, in_flight] }
    }

    /// One line for each budget: its bytes, and where they come from.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.keys.into_iter().map(|(key, bytes, is_given)| {
            format!("{key} = {bytes}, {}", if is_given { "as given" } else { "by the machine" })
        })
    }

    /// What is given and cannot be had: the kernel would end the node before such a bound is met.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let Self { machine, keys } = *self;
        keys.into_iter().filter(move |(_, bytes, is_given)| *is_given && *bytes > machine.memory_bytes).map(
            move |(key, bytes, _)| {
                format!(
                    "{key} is {bytes}, and this process may have {machine}: the kernel would end the node before this bound holds; \
                     lower it, or leave it out"
                )
            },
        )
    }
}

/// `MemTotal` of /proc/meminfo.
fn physical(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The number in `memory.max` or `memory.limit_in_bytes`; None where it stands for no limit.
fn limit(text: &str) -> Option<u64> {
    // Version 1 writes the largest number of whole pages for "none".
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// Every file in which a limit of memory may stand: of the process's groups, and of all groups above them.
///
/// `groups` is /proc/self/cgroup, `mounts` is /proc/self/mountinfo. In a container the group's path may be told from the
/// host's root while only the container's own part is mounted; the mount names the part.
fn limit_files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for mount in mounts.lines().filter_map(Mount::read) {
        let mine = groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            mount.is_of(controllers).then_some(path)
        });
        let Some(path) = mine else { continue };
        // A path outside of what is mounted (`/../..`) cannot be reached: then what is mounted is all that can be seen.
        let inner = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(""));
        let reachable = inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let inner = if reachable { inner } else { Path::new("") };
        files.extend(inner.ancestors().map(|group| Path::new(mount.point).join(group).join(mount.file())));
    }
    files
}

/// One mounted hierarchy of control groups that may limit memory.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    is_unified: bool,
}

impl<'a> Mount<'a> {
    fn read(line: &'a str) -> Option<Self> {
        // 36 35 98:0 /root /point options [optional fields] - type source super-options
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let is_unified = match after.next()? {
            "cgroup2" => true,
            "cgroup" if after.nth(1)?.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Self { root, point, is_unified })
    }

    fn is_of(&self, controllers: &str) -> bool {
        if self.is_unified { controllers.is_empty() } else { controllers.split(',').any(|one| one == "memory") }
    }

    fn file(&self) -> &'static str {
        if self.is_unified { "memory.max" } else { "memory.limit_in_bytes" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(groups: &str, mounts: &str) -> Vec<String> {
        limit_files(groups, mounts).iter().map(|file| file.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_limits_of_all_groups_above_count() {
        let mounts =
            "24 1 8:1 / / rw - ext4 /dev/sda rw\n31 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            files("0::/system.slice/forewarm.service\n", mounts),
            [
                "/sys/fs/cgroup/system.slice/forewarm.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }

    #[test]
    fn version_1_has_a_hierarchy_of_its_own_for_memory() {
        let mounts = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "9:name=systemd:/\n4:memory:/jobs/7\n1:cpu:/other\n0::/\n";
        assert_eq!(
            files(groups, mounts),
            [
                "/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/unified/memory.max",
            ]
        );
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let own = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(files("4:memory:/docker/abc\n", own), ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
        let namespace = "31 24 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(files("0::/\n", namespace), ["/sys/fs/cgroup/memory.max"]);
        let outside = "31 24 0:26 /../../.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(files("0::/../..\n", outside), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn the_lower_of_both_counts_and_no_limit_is_none() {
        assert_eq!(limit("536870912\n"), Some(512 << 20));
        assert_eq!((limit("max\n"), limit("9223372036854771712\n")), (None, None));
        assert_eq!(physical("MemFree: 1 kB\nMemTotal:       24683456 kB\n"), Some(24_683_456 << 10));
        let of = |physical, limit| {
            let Machine { memory_bytes, source } = Machine::of(physical, limit);
            (memory_bytes, source)
        };
        assert_eq!(of(Some(8), None), (8, MemorySource::Physical));
        assert_eq!(of(Some(8), Some(9)), (8, MemorySource::Physical));
        assert_eq!(of(Some(8), Some(7)), (7, MemorySource::ControlGroup));
        assert_eq!(of(None, Some(7)), (7, MemorySource::ControlGroup));
        assert_eq!(of(None, None), (2 << 30, MemorySource::Assumed));
    }

    #[test]
    fn shares_follow_the_memory() {
        let shares = |memory_bytes| {
            let machine = Machine { memory_bytes, source: MemorySource::Physical };
            [machine.guests_bytes(), machine.warm_bytes(), machine.in_flight_bytes()].map(|bytes| bytes >> 20)
        };
        assert_eq!(shares(512 << 20), [256, 128, 32]);
        assert_eq!(shares(1 << 30), [512, 256, 64]);
        assert_eq!(shares(64 << 30), [32 << 10, 16 << 10, 256]);
    }
}
