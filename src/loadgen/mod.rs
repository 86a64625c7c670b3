//! loadgen: to come.
