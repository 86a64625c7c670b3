//! The lines that functions write, on their way from the executor to the topic.
//!
//! Must not: bound the lines (`execute` does), or send them (`publish` does).

use std::sync::Arc;

use crate::codec::{Codec, WireFormat};
use crate::config::Config;
use crate::execute::Logs;
use crate::kafka::{ClientError, Connection};
use crate::publish::{FunctionLogs, LogSettings};
use crate::telemetry::Metrics;

/// The sender of functions' lines, where a topic is named for the lines; and the executor's settings for them.
pub(super) fn start(
    connection: &Connection,
    config: &Config,
    format: WireFormat,
    codec: &Arc<Codec>,
    metrics: &Arc<Metrics>,
) -> Result<(Option<FunctionLogs>, Logs), ClientError> {
    let bounds = config.function_logs;
    if config.topics.function_logs.is_empty() {
        return Ok((None, Logs { bounds, ..Logs::default() }));
    }
    let settings = LogSettings {
        topic: config.topics.function_logs.clone(),
        node: config.node_id(),
        format,
        codec: Arc::clone(codec),
        bytes_max: bounds.queue_bytes_max.get() as usize,
        metrics: Arc::clone(metrics),
    };
    let sender = FunctionLogs::start(connection, settings)?;
    let queue = sender.queue();
    Ok((Some(sender), Logs { bounds, tell: Arc::new(move |batch| queue.push(batch)) }))
}
