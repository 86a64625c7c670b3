//! What the process that compiles gives up, before it reads the first byte of an artifact.
//!
//! Limits of memory and CPU time must hold, or nothing is compiled. All else is taken away where the kernel can: files by
//! Landlock, network and other programs by seccomp. Must not: run in the service's own process.

#![expect(unsafe_code, reason = "system calls for which rustix has no safe function")]

use std::io;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, setrlimit};

/// What the process may take.
pub(super) struct Allowance {
    pub(super) memory_bytes: u64,
    pub(super) cpu_time: Duration,
    /// Bytes of machine code.
    pub(super) output_bytes: u64,
    /// How far it stands back for others, 0 to 19.
    pub(super) nice: i32,
}

/// Address space beyond twice the memory: the program itself, and the stacks of its threads.
const ADDRESS_SPACE_BYTES: u64 = 1 << 30;

/// Confines this process.
///
/// # Errors
/// Where a limit of memory or time cannot be set.
pub(super) fn confine(allowance: &Allowance) -> io::Result<()> {
    close_inherited();
    let seconds = allowance.cpu_time.as_secs().max(1);
    let address_space = allowance.memory_bytes.saturating_mul(2).saturating_add(ADDRESS_SPACE_BYTES);
    for (resource, limit) in [
        (Resource::Data, allowance.memory_bytes),
        (Resource::As, address_space),
        (Resource::Cpu, seconds),
        (Resource::Fsize, allowance.output_bytes),
        (Resource::Core, 0),
    ] {
        let most = getrlimit(resource).maximum;
        let limit = most.map_or(limit, |most| most.min(limit));
        // The soft limit of CPU time ends the process by a signal of its own, the hard one by the same as everything else.
        let maximum = if resource == Resource::Cpu { most.unwrap_or(u64::MAX).min(limit + 5) } else { limit };
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(maximum) })?;
    }
    // From here on as far as it goes: none of it is what keeps the service alive.
    let _ = rustix::process::setpriority_process(None, allowance.nice);
    // Where memory runs out in the container, this process goes rather than the service.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if rustix::thread::set_no_new_privs(true).is_ok() {
        close_the_file_system();
        close_the_network();
    }
    Ok(())
}

/// Closes every descriptor but stdin, stdout and stderr.
fn close_inherited() {
    // SAFETY: this process has just begun, and has opened nothing itself; a descriptor that is closed here belongs to no
    // value of this program.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Landlock with every right of its first version handled, and none granted.
fn close_the_file_system() {
    const EVERY_RIGHT: u64 = (1 << 13) - 1;
    let handled = [EVERY_RIGHT];
    // SAFETY: the kernel reads 8 bytes of a value that outlives the call, and answers a descriptor or an error.
    let rules =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), size_of_val(&handled), 0_u32) };
    if rules >= 0 {
        // SAFETY: `rules` is the descriptor that the kernel has just given. It stays open until the process ends.
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0_u32) };
    }
}

/// The machine that system calls are of, as seccomp names it.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: u32 = 0;

/// System calls that a compiler never needs: they reach others, or make this process another program.
const REFUSED: [libc::c_long; 14] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_io_uring_setup,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_mount,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
];

/// A seccomp filter that refuses [`REFUSED`], and every call of another machine.
fn close_the_network() {
    if MACHINE == 0 {
        return;
    }
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let answer = |what| statement(libc::BPF_RET | libc::BPF_K, what, 0, 0);
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    // struct seccomp_data: the call's number, then its machine.
    let mut filter = vec![load(4), statement(is, MACHINE, 1, 0), answer(libc::SECCOMP_RET_KILL_PROCESS), load(0)];
    #[cfg(target_arch = "x86_64")]
    {
        // Numbers with this bit are of the x32 calls, which are other numbers for the same.
        filter.push(statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0x4000_0000, 0, 1));
        filter.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    }
    for call in REFUSED {
        filter.push(statement(is, u32::try_from(call).unwrap_or(u32::MAX), 0, 1));
        filter.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap_or(0), filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies a filter of `len` statements, which `filter` holds until the call returns.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
}

fn statement(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}
