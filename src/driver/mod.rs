//! Carries events between the rooms of the shell and the pure core: the only place where both planes meet.
//!
//! The data plane, on the polling thread: [`intake`] takes what ingest decoded to the executor, [`outcomes`] takes what came
//! of it to the publisher. The control plane, on its own thread: [`plane`] feeds the pure `control` and carries out what it
//! answers. Between them is one bounded queue; the data plane never waits on it. Must not: decide anything that `control`
//! could decide.

mod intake;
mod outcomes;
mod plane;
mod unknown;

pub use intake::Intake;
pub use outcomes::{OutcomeSink, Ticket};
pub use plane::{ControlPlane, Observations};
