//! The report as one page: tables and plots, with no other file, no script and no font to fetch.
//!
//! Must not: decide anything; the numbers are the report's.

use std::fmt::Write as _;

use super::super::Error;
use super::table::{COLUMNS, EQUAL_IDLE_COLUMNS, cells, equal_idle_cells, place, size};
use super::{ALL, Report, plot};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}\
th:first-child,td:first-child{text-align:left}.advice{padding:.8em;background:#eef6ee}svg{max-width:100%;height:auto}";

const WORDS: &str = "A cold start is an instance that was missing in a minute that needed it. Idle time is what instances were \
held in vain; loads are instances that were made, ahead or at a call; both are relative to keeping an instance for 10 minutes \
after its last use (fixed:10m). p50, p75 and mean are over functions, of the cold starts of 100 calls. The policy none, which \
holds nothing, is not in the plots.";

/// The whole page.
pub(super) fn render(report: &Report) -> Result<String, Error> {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>forewarm backtest</title>\
         <style>{STYLE}</style></head>\n<body><h1>forewarm backtest</h1>\n<p class=\"advice\">{}</p>\n<p>{WORDS}</p>\n",
        escaped(&report.advice_text)
    );
    for set in &report.sets {
        for group in &set.groups {
            let (level, place) = (if group.class == ALL { 2 } else { 3 }, place(&set.name, group));
            let _ = write!(
                page,
                "<h{level}>{}</h{level}>\n<p>{}</p>\n",
                escaped(&place),
                escaped(&size(group, set, report.single))
            );
            page.push_str(&plot::cold_against_idle(&place, group)?);
            push_table(&mut page, &COLUMNS, group.rows.iter().map(cells));
            if !group.at_equal_idle.is_empty() {
                page.push_str("<p>At equal idle time:</p>\n");
                push_table(&mut page, &EQUAL_IDLE_COLUMNS, group.at_equal_idle.iter().map(equal_idle_cells));
            }
        }
        if !set.timelines.is_empty() {
            let _ = writeln!(page, "<h3>Set {}, over time</h3>", escaped(&set.name));
        }
        for timeline in &set.timelines {
            page.push_str(&plot::timeline(timeline)?);
        }
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn push_table(page: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let _ = write!(page, "<table>\n<tr>{}</tr>\n", cells("th", &head));
    for row in rows {
        let _ = writeln!(page, "<tr>{}</tr>", cells("td", &row));
    }
    page.push_str("</table>\n");
}

/// Text as it stands in HTML: names come from files.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
