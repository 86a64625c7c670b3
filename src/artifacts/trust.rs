//! Whose files are believed: the rule of owner and mode, as a function of numbers.
//!
//! Machine code that is loaded runs with all rights of this process, so nobody but this user and root may be able to change
//! it. Must not: look at the disk.

/// Write permission of the group and of all others.
const WRITABLE_FOR_OTHERS: u32 = 0o022;
/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// Owner and mode of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    /// The user it belongs to.
    pub(super) owner: u32,
    /// Its mode, with or without the bits of its kind.
    pub(super) mode: u32,
}

/// Why a file or folder is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Distrust {
    /// It belongs to somebody else.
    #[error("it belongs to user {owner}, and this process is user {user}")]
    Owner {
        /// The user it belongs to.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// Others may write to it.
    #[error("its group or all others may write to it (mode {mode:04o})")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
}

/// Why something with these rights is not believed by a process of `user`; `None` where it is.
pub(super) fn distrust(rights: Rights, user: u32) -> Option<Distrust> {
    let Rights { owner, mode } = rights;
    if owner != user && owner != 0 {
        Some(Distrust::Owner { owner, user })
    } else if mode & WRITABLE_FOR_OTHERS != 0 {
        Some(Distrust::Writable { mode: mode & PERMISSIONS })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_user_and_root_are_believed_where_nobody_else_may_write() {
        let of = |owner, mode| distrust(Rights { owner, mode }, 10_001);
        let believed =
            [(10_001, 0o40700), (10_001, 0o40755), (0, 0o40755), (0, 0o40555), (0, 0o41755), (10_001, 0o100400)];
        for (owner, mode) in believed {
            assert_eq!(of(owner, mode), None, "{owner} {mode:o}");
        }
        // Root believes nobody else.
        assert_eq!(distrust(Rights { owner: 1, mode: 0o700 }, 0), Some(Distrust::Owner { owner: 1, user: 0 }));
        assert_eq!(of(10_002, 0o40700), Some(Distrust::Owner { owner: 10_002, user: 10_001 }));
        // A volume of Kubernetes with an fsGroup, one without, and a folder for everybody's scratch.
        for (owner, mode) in [(0, 0o42775), (0, 0o40777), (0, 0o41777), (10_001, 0o40770), (10_001, 0o40702)] {
            assert_eq!(of(owner, mode), Some(Distrust::Writable { mode: mode & 0o7777 }), "{owner} {mode:o}");
        }
    }
}
