//! artifacts: to come.
