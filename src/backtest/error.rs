//! What a backtest cannot do, said with the file and line where that is known.
//!
//! Must not: print; the command does.

use std::io;
use std::path::PathBuf;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened or read.
    #[error("cannot read {}: {fault}", path.display())]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        fault: io::Error,
    },
    /// A line is not as the format has it.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong, and what is wanted.
        what: String,
    },
    /// The recorded calls do not fit together, or are too many.
    #[error("{}: {what}", path.display())]
    Trace {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// What was asked for cannot be replayed.
    #[error("{0}")]
    Option(String),
    /// A plot could not be drawn.
    #[error("cannot draw the plot {plot:?}: {fault}")]
    Plot {
        /// Its title.
        plot: String,
        /// What the drawing library said.
        fault: String,
    },
}
