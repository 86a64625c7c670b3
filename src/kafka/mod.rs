//! kafka: to come.
