//! pool: to come.
