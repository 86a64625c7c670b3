//! forecast: to come.
