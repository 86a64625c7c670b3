//! registry: to come.
