//! config: to come.

mod forecast;
mod humantime_text;
mod target;

pub use forecast::ForecastConfig;
pub use target::TargetConfig;
