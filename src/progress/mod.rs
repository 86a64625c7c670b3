//! Which offsets of a partition are done, when calls end in another order than they came.
//!
//! Duty: the low watermark (what Kafka may take as committed), the set of offsets done above it, and that set as text for
//! the commit's metadata, so that a restart does not repeat what was done. Must not: talk to a broker, decide when to
//! commit, or keep anything per message beyond what is in flight.
//!
//! **Shares.** A function, and a tenant, may hold a share of what is in flight ([`ShareBounds`]). At its share its further messages are
//! put aside: they stay in flight as numbers, which is what keeps the watermark below them, and the consumer goes back for
//! them when there is room ([`Partitions::moves`]).
//!
//! On the way of an event this room comes last: `publish` has the broker's word that an outcome is stored, then
//! [`Tracker::completed`], then a commit of what [`Tracker::commit`] says.
//!
//! **Gaps.** Offsets have holes: compaction, transaction markers, aborted records. A partition is delivered in offset
//! order, so an offset that was passed over does not exist for this consumer. The watermark therefore is the smallest
//! offset in flight, or one past the highest received; and a run of done offsets reaches over holes.
//!
//! **Jumps back.** Within one assignment offsets only rise. One that falls means that the consumer was moved back: by
//! [the caller itself](Tracker::replay_from), in which case what comes again is recognised, or by an offset reset after
//! the topic was recreated or truncated, in which case the same numbers may now stand for other messages. Nothing in a
//! message tells these apart, and taking a new message for a done one would lose it; so an unannounced fall is
//! [`Receipt::WentBack`], and the caller goes on with a new tracker under a new generation. Calls may then repeat; none
//! is lost.

mod aside;
mod metadata;
mod partitions;
#[cfg(test)]
mod properties;
mod runs;
mod shares;
#[cfg(test)]
mod sharing;
mod tracker;

pub use metadata::{METADATA_BYTES_MAX, MetadataFault};
pub use partitions::{Abandoned, Partitions, Quiet, Trial, Verdict};
pub use shares::{Admission, Claim, Holder, Holding, Share, ShareBounds};
pub use tracker::{Commit, Completion, Receipt, Tracker};
