//! A CSV of single calls: `timestamp,function[,duration_ms]`.
//!
//! Must not: sum calls up; that is the parent's.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::Error;
use super::lines::{Lines, field};
use super::{CALLS_MAX, Call};
use crate::types::{FunctionName, Timestamp};

/// The longest run time that is taken, in milliseconds (inclusive): a week.
const RUN_MS_MAX: f64 = 7.0 * 24.0 * 3_600_000.0;

/// Reads a file of calls, ordered by time; calls of one moment stay in the order of the file.
pub(super) fn read(path: &Path) -> Result<Vec<Call>, Error> {
    let mut lines = Lines::open(path)?;
    let mut calls = Vec::new();
    // Each name is held once, however many calls it has.
    let mut names = HashSet::<FunctionName>::new();
    let mut is_first = true;
    while let Some(line) = lines.next()? {
        let is_head = std::mem::take(&mut is_first) && line.starts_with("timestamp,");
        if is_head {
            continue;
        }
        let mut call = call(line).map_err(|what| lines.fault(what))?;
        match names.get(&call.function) {
            Some(name) => call.function = name.clone(),
            None => _ = names.insert(call.function.clone()),
        }
        if calls.len() == CALLS_MAX {
            return Err(lines.fault(format!("there are more than {CALLS_MAX} calls: give a part of them")));
        }
        calls.push(call);
    }
    calls.sort_by_key(|call| call.at);
    Ok(calls)
}

/// Reads one line. None of the fields can hold a comma, so quotes need no more than to be taken off.
fn call(line: &str) -> Result<Call, String> {
    let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
    let (at, function, run_ms) = match fields[..] {
        [at, function] => (at, function, ""),
        [at, function, run_ms] => (at, function, run_ms),
        _ => return Err(format!("{} fields: a line is timestamp,function[,duration_ms]", fields.len())),
    };
    let run_ms = if run_ms.is_empty() { 0.0 } else { field(run_ms, "duration_ms", "a number of milliseconds")? };
    if !(0.0..=RUN_MS_MAX).contains(&run_ms) {
        return Err(format!("duration_ms is {run_ms}: it must be from 0 to {RUN_MS_MAX}"));
    }
    Ok(Call {
        at: timestamp(at)?,
        function: FunctionName::new(function).map_err(|invalid| invalid.to_string())?,
        run: Duration::from_secs_f64(run_ms / 1_000.0),
    })
}

/// Reads a time: RFC 3339, or a number since 1970 of seconds (below 10¹¹: until the year 5138) or milliseconds.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    let wanted = || {
        format!("timestamp is {text:?}: it must be like 2026-11-23T09:00:00.25Z, or seconds or milliseconds since 1970")
    };
    if let Ok(number) = text.parse::<f64>() {
        let seconds = if number.abs() < 1e11 { number } else { number / 1e3 };
        if !(0.0..1e11).contains(&seconds) {
            return Err(wanted());
        }
        return Ok(Timestamp::from_micros((seconds * 1e6).round() as i64));
    }
    // `humantime` reads UTC alone: an offset from it is taken off first.
    let (local, ahead_s) = offset(text).unwrap_or((text, 0));
    let utc = humantime::parse_rfc3339_weak(local.trim_end_matches(['Z', 'z'])).map_err(|_| wanted())?;
    let since = utc.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| wanted())?;
    let micros = i64::try_from(since.as_micros()).map_err(|_| wanted())?;
    Ok(Timestamp::from_micros(micros - ahead_s * 1_000_000))
}

/// Cuts `+02:00` off the end: what stands before it, and how many seconds the local time is ahead of UTC.
fn offset(text: &str) -> Option<(&str, i64)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let ahead = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some((local, ahead * (i64::from(hours) * 3_600 + i64::from(minutes) * 60)))
}
