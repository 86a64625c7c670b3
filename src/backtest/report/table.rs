//! The report as plain text, for a terminal.
//!
//! Must not: decide anything; the numbers are the report's.

use std::fmt::Write as _;

use super::{ALL, EqualIdle, Group, Report, Row, Set, price_text};

/// The columns of the table of policies.
pub(super) const COLUMNS: [&str; 8] =
    ["policy", "price", "cold starts", "p50 %", "p75 %", "mean %", "idle ratio", "loads ratio"];
/// The columns of the table at equal idle time.
pub(super) const EQUAL_IDLE_COLUMNS: [&str; 6] =
    ["policy", "against", "idle ratio", "cold starts", "of that one", "fewer %"];

/// The whole report.
pub(super) fn render(report: &Report) -> String {
    let mut text = render_policies(report);
    text.push_str(&report.advice_text);
    text.push('\n');
    text
}

/// The tables of all sets.
pub(super) fn render_policies(report: &Report) -> String {
    let mut text = String::new();
    for set in &report.sets {
        for group in &set.groups {
            let place = place(&set.name, group);
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{place}: {}\n", size(group, set, report.single));
            push(&mut text, &COLUMNS, group.rows.iter().map(cells));
            if !group.at_equal_idle.is_empty() {
                let _ = writeln!(text, "{place}, at equal idle time:\n");
                push(&mut text, &EQUAL_IDLE_COLUMNS, group.at_equal_idle.iter().map(equal_idle_cells));
            }
        }
    }
    text
}

/// Which functions a table is about.
pub(super) fn place(set: &str, group: &Group) -> String {
    if group.class == ALL { format!("Set {set}") } else { format!("Set {set}, {}", group.class) }
}

/// How much was replayed.
pub(super) fn size(group: &Group, set: &Set, single: bool) -> String {
    let clipped = if single { ", one instance a function" } else { "" };
    let minutes = match set.measured_from_minute {
        0 => format!("{} minutes", set.minutes),
        from => format!("{} minutes measured after {from} that are not", set.minutes - from),
    };
    format!("{} functions, {} calls, {minutes}{clipped}", group.functions, group.calls)
}

/// The cells of one row, as [`COLUMNS`] has them.
pub(super) fn cells(row: &Row) -> Vec<String> {
    vec![
        row.policy.clone(),
        row.price_s.map_or_else(|| "-".to_owned(), price_text),
        row.cold.to_string(),
        format!("{:.2}", row.cold_percent_p50),
        format!("{:.2}", row.cold_percent_p75),
        format!("{:.2}", row.cold_percent_mean),
        or_dash(row.idle_ratio, 3),
        or_dash(row.loads_ratio, 2),
    ]
}

/// The cells of one comparison, as [`EQUAL_IDLE_COLUMNS`] has them.
pub(super) fn equal_idle_cells(row: &EqualIdle) -> Vec<String> {
    vec![
        row.policy.clone(),
        row.against.clone(),
        or_dash(row.idle_ratio, 3),
        or_dash(row.cold, 0),
        row.against_cold.to_string(),
        or_dash(row.fewer_percent, 1),
    ]
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Adds a table and an empty line; the first column stands left, the others right.
fn push(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut lines = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for line in &lines {
        let mut columns = line.iter().zip(&widths);
        if let Some((cell, width)) = columns.next() {
            let _ = write!(text, "{cell:width$}");
        }
        for (cell, width) in columns {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text.push('\n');
}
