//! driver: to come.
