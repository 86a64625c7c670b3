//! Durations as people write them ("250ms", "10m"), for `#[serde(with = "…")]` on a configuration field.
//!
//! Must not: take a bare number. "10" of what is the question that this notation answers.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|fault| {
        serde::de::Error::custom(format!(
            "{text:?} is not a duration ({fault}): write a number with a unit, like \"10s\""
        ))
    })
}
