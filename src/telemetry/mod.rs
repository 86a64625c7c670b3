//! telemetry: to come.
