//! Carries events between the rooms of the shell and the pure core: the only place where both planes meet.
//!
//! The data plane: [`Intake`] takes what ingest decoded to the executor, on the polling thread, through [`Delivery`], which
//! keeps calls in order and tries failed ones again; [`Outbox`] takes what came of
//! it to the publisher, on whichever thread ran the call. The control plane, on its own thread: [`ControlPlane`] feeds the
//! pure `control` and carries out what it answers. Between them is one bounded queue; the data plane never waits on it.
//! Must not: decide anything that `control` could decide.

mod asked;
mod delivery;
mod intake;
mod outbox;
mod plane;
mod statuses;
mod unknown;

pub use asked::Asked;
pub use delivery::Delivery;
pub use intake::Intake;
pub use outbox::{Failure, Outbox, OutboxSettings, Ticket};
pub use plane::{ControlPlane, Observations};
pub use statuses::{Said, Statuses};
pub use unknown::Unknown;
