//! A CSV of single calls: `timestamp,function[,duration_ms]`, or other columns in another order where its first line names them.
//!
//! Must not: sum calls up; that is the parent's.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::Error;
use super::lines::{Lines, field};
use super::table::Table;
use super::{CALLS_MAX, Call};
use crate::types::{FunctionName, Timestamp};

/// The longest run time that is taken, in milliseconds (inclusive): a week.
const RUN_MS_MAX: f64 = 7.0 * 24.0 * 3_600_000.0;

/// What the columns are called, as [`plain`] has it; the first is what they are called here.
const TIMESTAMP: [&str; 12] = [
    "timestamp",
    "time",
    "datetime",
    "date",
    "ts",
    "at",
    "starttimestamp",
    "starttime",
    "startedat",
    "start",
    "invokedat",
    "eventtime",
];
const FUNCTION: [&str; 6] = ["function", "functionname", "func", "functionid", "fn", "name"];
/// The same with how many milliseconds one is.
const DURATION: [(&str, f64); 10] = [
    ("durationms", 1.0),
    ("duration", 1.0),
    ("runms", 1.0),
    ("executems", 1.0),
    ("durations", 1e3),
    ("durationseconds", 1e3),
    ("durationus", 1e-3),
    ("executeus", 1e-3),
    ("durationns", 1e-6),
    ("durationmilliseconds", 1.0),
];
/// What columns of run times have in their names.
const RUN_TIMES: [&str; 4] = ["duration", "runtime", "elapsed", "latency"];
/// What is said where the first line names no columns, or not enough of them.
const WANTED: &str = "the first line may name the columns: timestamp, function, and where it is known duration_ms";

/// A column's name without what is written in one way here and in another one there: `Function Name`, `functionName`,
/// `@timestamp`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Which column is which. Without a first line that says so: timestamp, function, and where there is a third, duration_ms.
struct Columns {
    at: usize,
    function: usize,
    run: Option<usize>,
    /// How many milliseconds a run time of 1 is.
    run_unit_ms: f64,
    /// How many there are where a first line says so; else 2 or 3.
    len: Option<usize>,
}

impl Columns {
    const WITHOUT_A_HEAD: Self = Self { at: 0, function: 1, run: Some(2), run_unit_ms: 1.0, len: None };

    /// What the first line says, where it is a head.
    ///
    /// # Errors
    /// Where it has run times in a unit that is not known: taken for none they would not be missed.
    fn of(head: &Table) -> Result<Option<Self>, String> {
        let fields: Vec<String> = head.fields().map(plain).collect();
        let place = |name: &str| fields.iter().position(|field| field == name);
        let at = TIMESTAMP.iter().find_map(|name| place(name));
        let function = FUNCTION.iter().find_map(|name| place(name));
        let (Some(at), Some(function)) = (at, function) else { return Ok(None) };
        let run = DURATION.iter().find_map(|(name, unit_ms)| Some((place(name)?, *unit_ms)));
        let unknown = fields.iter().position(|field| RUN_TIMES.iter().any(|word| field.contains(word)));
        if let Some(unknown) = unknown.filter(|_| run.is_none()) {
            return Err(format!(
                "the column {:?} is not known: run times are read from duration_ms, duration_s, duration_us or duration_ns",
                head.field(unknown)
            ));
        }
        Ok(Some(Self {
            at,
            function,
            run: run.map(|(place, _)| place),
            run_unit_ms: run.map_or(1.0, |(_, unit_ms)| unit_ms),
            len: Some(head.len()),
        }))
    }
}

/// The names of functions, each held once, however many calls it has.
#[derive(Default)]
struct Names {
    known: HashMap<String, FunctionName>,
    taken: HashSet<FunctionName>,
}

impl Names {
    /// The name of a function that is called like this elsewhere, where names may have other characters, as an ARN or a path has.
    fn of(&mut self, text: &str) -> Result<FunctionName, String> {
        if let Some(name) = self.known.get(text) {
            return Ok(name.clone());
        }
        let name = match FunctionName::new(text) {
            Ok(name) => name,
            Err(_) if text.is_empty() => return Err("function is empty".to_owned()),
            Err(_) => self.replaced(text)?,
        };
        self.known.insert(text.to_owned(), name.clone());
        self.taken.insert(name.clone());
        Ok(name)
    }

    /// A name with `_` in place of what no name here has; with a number behind it where that is another's.
    fn replaced(&self, text: &str) -> Result<FunctionName, String> {
        let legal = |c: char| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '_' };
        let replaced: String = text.chars().map(legal).collect();
        let replaced = replaced.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let stem = if replaced.is_empty() { "function" } else { replaced };
        for nth in 1..=self.taken.len() + 1 {
            let behind = if nth == 1 { String::new() } else { format!("-{nth}") };
            let kept = &stem[..stem.len().min(FunctionName::LEN_MAX - behind.len())];
            let name = FunctionName::new(&format!("{kept}{behind}")).map_err(|invalid| invalid.to_string())?;
            if !self.taken.contains(&name) {
                return Ok(name);
            }
        }
        Err(format!("no name is left for function {text:?}"))
    }
}

/// Reads a file of calls, ordered by time; calls of one moment stay in the order of the file.
pub(super) fn read(path: &Path) -> Result<Vec<Call>, Error> {
    let mut lines = Lines::open(path)?;
    let mut calls = Vec::new();
    let mut names = Names::default();
    let mut table: Option<(Table, Columns)> = None;
    while let Some(line) = lines.next()? {
        let is_first = table.is_none();
        let (table, columns) = table.get_or_insert_with(|| (Table::beginning_with(line), Columns::WITHOUT_A_HEAD));
        let split = table.split(line);
        if split.is_ok() {
            // Spreadsheets leave rows without any value.
            if table.is_delimiter_line() || table.fields().all(str::is_empty) {
                continue;
            }
            // Files that were joined have their heads in the middle.
            if let Some(head) = Columns::of(table).map_err(|what| lines.fault(what))? {
                *columns = head;
                continue;
            }
        }
        let call = split.and_then(|()| call(table, columns, &mut names)).map_err(|what| {
            let is_head = is_first && table.fields().all(|field| field.parse::<f64>().is_err());
            lines.fault(if is_head { format!("{what}; {WANTED}") } else { what })
        })?;
        if calls.len() == CALLS_MAX {
            return Err(lines.fault(format!("there are more than {CALLS_MAX} calls: give a part of them")));
        }
        calls.push(call);
    }
    calls.sort_by_key(|call| call.at);
    Ok(calls)
}

/// Reads the line that was taken apart last.
fn call(table: &Table, columns: &Columns, names: &mut Names) -> Result<Call, String> {
    let is_whole = columns.len.map_or((2..=3).contains(&table.len()), |len| table.len() <= len);
    let needed = columns.at.max(columns.function) + 1;
    if !is_whole || table.len() < needed {
        let wanted = match columns.len {
            Some(len) => format!("the first line has {len}"),
            None => format!("a line is timestamp{0}function[{0}duration_ms]", table.delimiter()),
        };
        return Err(format!("{} fields: {wanted}", table.len()));
    }
    let (at, run) = (table.field(columns.at), columns.run.map_or("", |column| table.field(column)));
    // Where a comma does not part fields, it may part a number from its fraction.
    let (at, run) = match table.delimiter() {
        ',' => (Cow::Borrowed(at), Cow::Borrowed(run)),
        _ => (Cow::Owned(at.replace(',', ".")), Cow::Owned(run.replace(',', "."))),
    };
    let at = timestamp(&at)?;
    let run = if run.is_empty() { 0.0 } else { field(&run, "duration_ms", "a number of milliseconds")? };
    let run_ms = run * columns.run_unit_ms;
    if !(0.0..=RUN_MS_MAX).contains(&run_ms) {
        return Err(format!("duration_ms is {run_ms}: it must be from 0 to {RUN_MS_MAX}"));
    }
    Ok(Call { at, function: names.of(table.field(columns.function))?, run: Duration::from_secs_f64(run_ms / 1_000.0) })
}

/// Reads a time: RFC 3339, or a number since 1970 of seconds (below 10¹¹: until the year 5138), milliseconds, microseconds or
/// nanoseconds, a thousand times as many each.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    let wanted = || {
        format!("timestamp is {text:?}: it must be like 2026-11-23T09:00:00.25Z, or seconds, ms, µs or ns since 1970")
    };
    if let Ok(number) = text.parse::<f64>() {
        let unit = [1.0, 1e3, 1e6, 1e9].into_iter().find(|unit| number.abs() < 1e11 * unit);
        let seconds = unit.map_or(f64::NAN, |unit| number / unit);
        if !(0.0..1e11).contains(&seconds) {
            return Err(wanted());
        }
        return Ok(Timestamp::from_micros((seconds * 1e6).round() as i64));
    }
    // `humantime` reads UTC alone: an offset from it is taken off first.
    let (local, ahead_s) = offset(text).unwrap_or((text, 0));
    let utc = ["Z", "z", "UTC", "GMT"].iter().find_map(|zone| local.strip_suffix(zone)).unwrap_or(local);
    let utc = humantime::parse_rfc3339_weak(utc.trim_end()).map_err(|_| wanted())?;
    let since = utc.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| wanted())?;
    let micros = i64::try_from(since.as_micros()).map_err(|_| wanted())?;
    Ok(Timestamp::from_micros(micros - ahead_s * 1_000_000))
}

/// Cuts `+02:00`, `+0200` or `+02` off the end, with a space before it or without: what stands before it, and how many seconds the local time is ahead of UTC.
fn offset(text: &str) -> Option<(&str, i64)> {
    let sign = text.rfind(['+', '-'])?;
    // A date has signs, too; the time of day stands between it and the offset.
    if !text[..sign].contains(':') {
        return None;
    }
    let ahead = if text.as_bytes()[sign] == b'+' { 1 } else { -1 };
    let digits = &text[sign + 1..];
    let (hours, minutes) = match digits.len() {
        5 => digits.split_once(':')?,
        4 => digits.split_at_checked(2)?,
        2 => (digits, "0"),
        _ => return None,
    };
    if !hours.bytes().chain(minutes.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60)
        .then_some((text[..sign].trim_end(), ahead * (i64::from(hours) * 3_600 + i64::from(minutes) * 60)))
}
