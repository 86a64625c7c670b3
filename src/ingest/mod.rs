//! ingest: to come.
