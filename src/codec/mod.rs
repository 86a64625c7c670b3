//! codec: to come.
