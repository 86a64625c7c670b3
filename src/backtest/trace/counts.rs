//! A folder of counts by minute: `functions.csv` and `counts_SET….txt[.gz]`.
//!
//! Must not: decide what the counts need; that is the parent's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::Error;
use super::lines::{Lines, field};
use super::table::Table;
use super::{COUNT_MAX, FUNCTIONS_MAX, Function, MINUTES_MAX, Set, Trace};
use crate::types::FunctionName;

/// Text of one column that is kept as it is, in bytes (inclusive).
const TEXT_BYTES_MAX: usize = 128;

/// One line of `functions.csv`.
struct Row {
    name: FunctionName,
    set: String,
    minutes: u32,
    total: u64,
    run: Duration,
    class: Option<String>,
    owner: Option<String>,
}

/// Reads a folder.
pub(super) fn read(folder: &Path) -> Result<Trace, Error> {
    let rows = rows(&folder.join("functions.csv"))?;
    let mut sets = BTreeMap::<String, Set>::new();
    let mut counted = HashMap::<FunctionName, Vec<(u32, u32)>>::new();
    for row in &rows {
        let set = sets.entry(row.set.clone()).or_insert_with(|| Set {
            name: row.set.clone(),
            minutes: row.minutes,
            functions: Vec::new(),
        });
        if set.minutes != row.minutes {
            let what =
                format!("{} has {} minutes, others of set {} have {}", row.name, row.minutes, set.name, set.minutes);
            return Err(Error::Trace { path: folder.join("functions.csv"), what });
        }
    }
    for set in sets.values() {
        for file in files_of(folder, &set.name)? {
            read_counts(&file, set.minutes, &mut counted)?;
        }
    }
    for row in rows {
        let counts = counted.remove(&row.name).unwrap_or_default();
        let total: u64 = counts.iter().map(|(_, count)| u64::from(*count)).sum();
        if total != row.total {
            let what = format!("functions.csv says {} calls of {}, its counts say {total}", row.total, row.name);
            return Err(Error::Trace { path: folder.to_owned(), what });
        }
        let batches = counts.into_iter().map(|(minute, count)| (minute, count, row.run));
        let function = Function::new(row.name, row.class, row.owner, row.minutes, batches);
        if let Some(set) = sets.get_mut(&row.set) {
            set.functions.push(function);
        }
    }
    if let Some(stray) = counted.keys().min() {
        let what = format!("counts of {stray}, which functions.csv does not have");
        return Err(Error::Trace { path: folder.to_owned(), what });
    }
    Ok(Trace { sets: sets.into_values().collect() })
}

/// Reads `functions.csv`; a function that is named twice is an error.
fn rows(path: &Path) -> Result<Vec<Row>, Error> {
    let mut lines = Lines::open(path)?;
    let head = lines.next()?.unwrap_or_default().to_owned();
    let mut table = Table::beginning_with(&head);
    table.split(&head).map_err(|what| lines.fault(what))?;
    let columns: Vec<String> = table.fields().map(str::to_owned).collect();
    let optional = |name: &str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
    let needed = |name: &str| optional(name).ok_or_else(|| lines.fault(format!("there is no column {name}")));
    let (fid, set, minutes) = (needed("fid")?, needed("set")?, needed("minutes")?);
    let (total, run_ms) = (needed("total")?, needed("dur_avg_ms")?);
    let (class, owner) = (optional("cls"), optional("owner"));
    let mut rows = Vec::new();
    let mut names = BTreeSet::new();
    while let Some(line) = lines.next()? {
        let split = table.split(line);
        let fields: Vec<&str> = table.fields().collect();
        let row = || -> Result<Row, String> {
            split?;
            if fields.len() != columns.len() {
                return Err(format!("{} fields, the first line has {}", fields.len(), columns.len()));
            }
            let text = |column: usize| text(&columns[column], fields[column]);
            let row = Row {
                name: FunctionName::new(fields[fid]).map_err(|invalid| invalid.to_string())?,
                set: text(set)?.ok_or("set is empty")?,
                minutes: field(fields[minutes], "minutes", "a number")?,
                total: field(fields[total], "total", "a number")?,
                run: Duration::from_millis(field(fields[run_ms], "dur_avg_ms", "a whole number of milliseconds")?),
                class: class.map_or(Ok(None), text)?,
                owner: owner.map_or(Ok(None), text)?,
            };
            if !(1..=MINUTES_MAX).contains(&row.minutes) {
                return Err(format!("minutes is {}: it must be from 1 to {MINUTES_MAX}", row.minutes));
            }
            Ok(row)
        };
        let row = row().map_err(|what| lines.fault(what))?;
        if !names.insert(row.name.clone()) {
            return Err(lines.fault(format!("{} is there twice", row.name)));
        }
        if rows.len() == FUNCTIONS_MAX {
            return Err(lines.fault(format!("there are more than {FUNCTIONS_MAX} functions: give a part of them")));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// A column's text; `None` where it is empty.
fn text(column: &str, text: &str) -> Result<Option<String>, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("{column} is longer than {TEXT_BYTES_MAX} bytes"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The files with the counts of a set, by name; at least one.
fn files_of(folder: &Path, set: &str) -> Result<Vec<PathBuf>, Error> {
    let read = |fault| Error::Read { path: folder.to_owned(), fault };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(stem) = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".txt") else { continue };
        let rest = stem.strip_prefix("counts_").and_then(|stem| stem.strip_prefix(set));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_')) {
            files.push(path);
        }
    }
    if files.is_empty() {
        let what = format!("no counts of set {set}: there must be a file counts_{set}….txt or .txt.gz");
        return Err(Error::Trace { path: folder.to_owned(), what });
    }
    files.sort();
    Ok(files)
}

/// Reads one file of counts.
fn read_counts(path: &Path, minutes: u32, counted: &mut HashMap<FunctionName, Vec<(u32, u32)>>) -> Result<(), Error> {
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()? {
        let counts = || -> Result<(FunctionName, Vec<(u32, u32)>), String> {
            let mut fields = line.split_ascii_whitespace();
            let name = FunctionName::new(fields.next().unwrap_or_default()).map_err(|invalid| invalid.to_string())?;
            let mut counts: Vec<(u32, u32)> = Vec::new();
            for text in fields {
                let (minute, count) = text.split_once(':').ok_or_else(|| format!("{text:?} is not minute:count"))?;
                let minute = field(minute, "minute", "a number")?;
                let count = field(count, "count", "a number")?;
                if minute >= minutes || !(1..=COUNT_MAX).contains(&count) {
                    return Err(format!("{text}: minutes go from 0 to {}, counts from 1 to {COUNT_MAX}", minutes - 1));
                }
                if counts.last().is_some_and(|(last, _)| *last >= minute) {
                    return Err(format!("{text}: minutes must rise"));
                }
                counts.push((minute, count));
            }
            Ok((name, counts))
        };
        let (name, counts) = counts().map_err(|what| lines.fault(what))?;
        if counted.len() > FUNCTIONS_MAX {
            return Err(lines.fault(format!("there are counts of more than {FUNCTIONS_MAX} functions")));
        }
        if let Some(before) = counted.insert(name, counts) {
            return Err(lines.fault(format!("a second line of a function; the first had {} minutes", before.len())));
        }
    }
    Ok(())
}
