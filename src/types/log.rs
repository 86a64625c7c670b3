//! Log lines of functions: what a guest wrote, and what the node says beside that. The event on the topic of functions' logs, field
//! by field as in `schemas/function-log.avsc`.
//!
//! Must not: bound what is written (`execute` does), or escape it: a program may read on. Whoever shows a line escapes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FunctionDefinition, FunctionName, Timestamp};

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// A stream that this program does not know: a newer one wrote it.
    Unknown,
    /// A component's stdout; a command's stdout is its answer and no log.
    Stdout,
    /// Stderr.
    Stderr,
    /// The node: how a call ended badly, or what was left out.
    Node,
}

impl LogStream {
    /// The name on the wire, and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Node => "node",
        }
    }
}

/// Lines and bytes that are not among the lines that were kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Whole lines.
    pub lines: u64,
    /// Bytes of these lines, and of ends of lines that were cut.
    pub bytes: u64,
}

impl LeftOut {
    /// Whether nothing was left out.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Adds to it.
    pub fn add(&mut self, lines: u64, bytes: u64) {
        self.lines = self.lines.saturating_add(lines);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it comes from.
    pub stream: LogStream,
    /// When its first byte was written.
    pub written_at: Timestamp,
    /// Its text without the line break; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// What this line says was left out. Of a guest's own line, bytes at its end.
    pub left_out: LeftOut,
}

impl LogLine {
    /// A line of the node's own that says what was left out, and which key bounds it.
    pub fn about(left_out: LeftOut, why: &str, at: Timestamp) -> Self {
        let LeftOut { lines, bytes } = left_out;
        let text = match lines {
            0 => format!("{bytes} bytes of long lines were left out: {why}"),
            lines => format!("{lines} lines and {bytes} bytes in all were left out: {why}"),
        };
        Self { stream: LogStream::Node, written_at: at, text, left_out }
    }
}

/// Lines that belong together: of one call, of one instance's beginning, or of a function.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// The version that wrote them.
    pub definition: Arc<FunctionDefinition>,
    /// The call; absent where the lines belong to none: `init`, a start function, or what a whole function left out.
    pub invocation_id: Option<String>,
    /// Which attempt of the call, from 1; 0 where there is no call.
    pub attempt: u32,
    /// The lines, in the order in which they were written.
    pub lines: Vec<LogLine>,
}

impl LogBatch {
    /// Bytes of the lines' texts.
    pub fn bytes(&self) -> usize {
        self.lines.iter().map(|line| line.text.len()).sum()
    }

    /// The lines as events of the node `node`.
    pub fn events<'a>(&'a self, node: &'a str) -> impl Iterator<Item = FunctionLog> + 'a {
        let FunctionDefinition { name, version, tenant, .. } = &*self.definition;
        self.lines.iter().map(move |line| FunctionLog {
            function: name.clone(),
            version: Some(version.clone()),
            invocation_id: self.invocation_id.clone(),
            attempt: self.attempt,
            tenant: tenant.clone(),
            node: node.to_owned(),
            stream: line.stream,
            written_at: line.written_at,
            text: line.text.clone(),
            left_out_lines: line.left_out.lines,
            left_out_bytes: line.left_out.bytes,
        })
    }
}

/// One line of a function's log, on the topic of functions' logs under the function's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionLog {
    /// The function.
    pub function: FunctionName,
    /// The version that ran.
    #[serde(default)]
    pub version: Option<String>,
    /// The call; absent where the line belongs to none.
    #[serde(default)]
    pub invocation_id: Option<String>,
    /// Which attempt of the call, from 1; 0 where there is no call.
    #[serde(default)]
    pub attempt: u32,
    /// The tenant of the function's definition.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The node on which it was written.
    pub node: String,
    /// Where it comes from.
    pub stream: LogStream,
    /// When its first byte was written, by the node's clock.
    pub written_at: Timestamp,
    /// The text, without its line break. Foreign: whoever shows it escapes it.
    #[serde(default)]
    pub text: String,
    /// Lines that were left out, where this line says so.
    #[serde(default)]
    pub left_out_lines: u64,
    /// Bytes that were left out: of the lines that this line tells of, or of its own end.
    #[serde(default)]
    pub left_out_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Artifact, FunctionKind, Sha256};

    #[test]
    fn a_stream_has_one_name() {
        for stream in [LogStream::Unknown, LogStream::Stdout, LogStream::Stderr, LogStream::Node] {
            assert_eq!(serde_json::to_value(stream).unwrap(), stream.as_str());
        }
    }

    #[test]
    fn lines_of_a_call_are_events_with_its_id_and_the_definitions_tenant() {
        let artifact = Artifact { uri: "store:".to_owned(), sha256: Sha256([0; 32]) };
        let mut definition = FunctionDefinition::new("f".parse().unwrap(), "7", artifact, FunctionKind::Command);
        definition.tenant = Some("acme".to_owned());
        let at = Timestamp::from_millis(5);
        let own = LogLine {
            stream: LogStream::Stderr,
            written_at: at,
            text: "hello".to_owned(),
            left_out: LeftOut::default(),
        };
        let about = LogLine::about(LeftOut { lines: 3, bytes: 40 }, "a key", at);
        let batch = LogBatch {
            definition: Arc::new(definition),
            invocation_id: Some("i".to_owned()),
            attempt: 2,
            lines: vec![own, about],
        };
        let events: Vec<_> = batch.events("n").collect();
        assert_eq!(
            (events[0].text.as_str(), events[0].tenant.as_deref(), events[0].attempt),
            ("hello", Some("acme"), 2)
        );
        assert_eq!((events[1].left_out_lines, events[1].left_out_bytes), (3, 40));
        assert_eq!(events[1].text, "3 lines and 40 bytes in all were left out: a key");
        assert_eq!((events[1].version.as_deref(), events[1].node.as_str()), (Some("7"), "n"));
    }
}
