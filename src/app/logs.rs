//! What functions write, on its way from the executor to its topic.
//!
//! Must not: bound it (`execute` does), or send it (`publish` does).

use std::sync::Arc;

use crate::codec::{Codec, WireFormat};
use crate::config::Config;
use crate::execute::Logs;
use crate::kafka::{ClientError, Connection};
use crate::publish::{FunctionLogs, LogSettings};
use crate::telemetry::Metrics;

/// What sends lines of functions, where a topic is named for them; and what the executor is to do with them.
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
