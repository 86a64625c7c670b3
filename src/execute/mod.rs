//! execute: to come.
