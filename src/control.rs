//! control: to come.
