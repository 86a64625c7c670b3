//! Traces are read as they are, and what is wrong in them is found and named.

use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const HEAD: &str = "fid,set,cls,minutes,total,dur_avg_ms";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        if name.ends_with(".gz") {
            let mut packed = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
            packed.write_all(text.as_bytes()).unwrap();
            packed.finish().unwrap();
        } else {
            fs::write(path, text).unwrap();
        }
    }
    folder
}

/// The trace in a folder, or the fault without the folder's own path.
fn read(files: &[(&str, &str)]) -> Result<Trace, String> {
    let folder = folder(files);
    let place = folder.path().display().to_string();
    Trace::read(folder.path(), &[]).map_err(|fault| fault.to_string().replace(&place, "."))
}

/// The calls in a file: time in ms, function, run time in ms.
fn read_calls(text: &str) -> Result<Vec<(i64, String, u128)>, String> {
    let folder = folder(&[("calls.csv", text)]);
    let place = folder.path().display().to_string();
    match Trace::read_calls(&folder.path().join("calls.csv")) {
        Ok(calls) => Ok(calls.iter().map(|c| (c.at.as_millis(), c.function.to_string(), c.run.as_millis())).collect()),
        Err(fault) => Err(fault.to_string().replace(&place, ".")),
    }
}

fn minutes(function: &Function, minutes: u32) -> Vec<(u32, f64, u32)> {
    function.minutes(minutes).map(|minute| (minute.count, minute.load, minute.need)).collect()
}

#[test]
fn counts_become_loads_and_needs() {
    let functions = format!("{HEAD}\nf,X,heavy,6,7,30000\ng,X,,6,1,150000\nh,X,rare,6,0,1\n");
    let trace =
        read(&[("functions.csv", &functions), ("counts_X_a.txt.gz", "f 0:2 3:5\n"), ("counts_X_b.txt", "g 2:1")]);
    let set = &trace.unwrap().sets[0];
    assert_eq!((set.name.as_str(), set.minutes, set.functions.len()), ("X", 6, 3));
    let [f, g, h] = &set.functions[..] else { panic!("three functions") };
    assert_eq!((f.class.as_deref(), g.class.as_deref(), h.calls), (Some("heavy"), None, 0));
    // Two calls of half a minute: load 1, and 1 + √1 = 2. Five: 2.5 + √2.5 = 4.08.
    let none = (0, 0.0, 0);
    assert_eq!(minutes(f, 6), [(2, 1.0, 2), none, none, (5, 2.5, 5), none, none]);
    // A run of two and a half minutes: 1 + √1 twice, 0.5 + √0.5 = 1.21.
    assert_eq!(minutes(g, 6), [none, none, (1, 1.0, 2), (0, 1.0, 2), (0, 0.5, 2), none]);
    assert_eq!(minutes(h, 6), [none; 6]);
}

#[test]
fn faults_in_a_folder_are_named_with_their_place() {
    let functions = |rows: &str| format!("{HEAD}\n{rows}");
    let says =
        |rows: &str, counts: &str| read(&[("functions.csv", &functions(rows)), ("counts_X.txt", counts)]).unwrap_err();
    let row = "f,X,c,6,7,5\n";
    assert_eq!(says(row, "f 0:2 3:4\n"), ".: functions.csv says 7 calls of f, its counts say 6");
    assert_eq!(says(row, "f 0:7\ng 1:1\n"), ".: counts of g, which functions.csv does not have");
    assert_eq!(says(row, "f 6:7\n"), "./counts_X.txt, line 1: 6:7: minutes go from 0 to 5, counts from 1 to 10000000");
    assert_eq!(says(row, "f 0:0\n"), "./counts_X.txt, line 1: 0:0: minutes go from 0 to 5, counts from 1 to 10000000");
    assert_eq!(says(row, "\nf 3:4 3:3\n"), "./counts_X.txt, line 2: 3:3: minutes must rise");
    assert_eq!(says(row, "f 3-4\n"), "./counts_X.txt, line 1: \"3-4\" is not minute:count");
    assert_eq!(says(row, "f 0:x\n"), "./counts_X.txt, line 1: count is \"x\": it must be a number");
    assert_eq!(
        says(row, "f 0:7\nf 1:1\n"),
        "./counts_X.txt, line 2: a second line of a function; the first had 1 minutes"
    );
    assert_eq!(says("f,X,c,6,7\n", ""), "./functions.csv, line 2: 5 fields, the first line has 6");
    assert_eq!(says("f,X,c,0,7,5\n", ""), "./functions.csv, line 2: minutes is 0: it must be from 1 to 86400");
    assert_eq!(says("f,X,c,6,7,5\nf,X,c,6,7,5\n", ""), "./functions.csv, line 3: f is there twice");
    assert_eq!(says("f,X,c,6,7,5\ng,X,c,7,7,5\n", ""), "./functions.csv: g has 7 minutes, others of set X have 6");
    assert_eq!(says("f,Y,c,6,7,5\n", ""), ".: no counts of set Y: there must be a file counts_Y….txt or .txt.gz");
    assert_eq!(
        read(&[("functions.csv", "fid,set\n")]).unwrap_err(),
        "./functions.csv, line 1: there is no column minutes"
    );
    assert!(read(&[]).unwrap_err().starts_with("cannot read ./functions.csv: "));
}

#[test]
fn calls_are_read_in_every_form_of_time() {
    let text = "\u{feff}timestamp,function,duration_ms\r\n\
                1970-01-01T00:01:00Z,b,1500\r\n\
                \"1970-01-01T02:00:30.25+02:00\",\"a/x\"\n\
                \n\
                0.5,c,0.9\n\
                100000000000,ms\n\
                99999999999,s,\n";
    assert_eq!(
        read_calls(text).unwrap(),
        [
            (500, "c".to_owned(), 0),
            (30_250, "a/x".to_owned(), 0),
            (60_000, "b".to_owned(), 1_500),
            (100_000_000_000, "ms".to_owned(), 0),
            (99_999_999_999_000, "s".to_owned(), 0),
        ]
    );
}

#[test]
fn columns_are_found_by_the_first_line_in_any_case_and_order() {
    let f = |at: i64, run: u128| (at, "f".to_owned(), run);
    for text in [
        "\"timestamp\",\"function\",\"duration_ms\"\n\"1\",\"f\",\"281\"\n",
        "Timestamp,Function,Duration_ms\n1,f,281\n",
        "duration_ms;tenant;FUNCTION;timestamp\n281;a,b;f;1\n",
        "time\tfunction_name\tregion\tduration_ms\n1\tf\t\t281\n",
        "@timestamp,Function Name,Duration (ms)\r\n1,f,281\r\n,,\r\n",
        "startedAt;functionName;duration_s\n1;f;0,281\n",
        "tenant\ttimestamp\tfunction\tduration_ms\n\t1\tf\t281\n",
        "sep=\t\ntimestamp\tfunction\tduration_ms\n1\tf\t281\n",
        "sep=;\nts;fn;execute_us\n1,0;f;281000\n",
        "\u{feff}sep=,\n\nTIMESTAMP,FUNCTION,DURATION,\n\n1,f,281,\n\n",
        // Two files, joined.
        "timestamp,function,duration_ms\n1,f,281\ntimestamp,function,duration_ms\n",
    ] {
        assert_eq!(read_calls(text).unwrap(), [f(1_000, 281)], "{text}");
    }
    let joined = "timestamp,function\n1,f\nfunction,duration_ms,timestamp\nf,5,2\n";
    assert_eq!(read_calls(joined).unwrap(), [f(1_000, 0), f(2_000, 5)]);
}

#[test]
fn times_may_have_any_unit_and_zone() {
    for time in [
        "1700000000",
        "1700000000000",
        "1700000000000000",
        "1700000000000000000",
        "1.7e9",
        "2023-11-14T22:13:20Z",
        "2023-11-15T03:43:20+05:30",
        "2023-11-15T03:43:20+0530",
        "2023-11-14T20:13:20-02",
        "2023-11-14 22:13:20",
        "2023-11-14 22:13:20 UTC",
        "2023-11-14T22:13:20.000000000z",
        "2023-11-15 00:13:20.0 +02:00",
        "2023-11-14 20:13:20 -0200",
    ] {
        let calls = read_calls(&format!("{time},f\n")).unwrap_or_else(|fault| panic!("{time}: {fault}"));
        assert_eq!(calls[0].0, 1_700_000_000_000, "{time}");
    }
}

#[test]
fn names_of_elsewhere_become_names_of_here() {
    let text = "1,arn:aws:lambda:eu:1:function:pay\n2,/api/x?y=1\n3,/api/x!y=1\n4,/api/x?y=1\n5,straße 7\n6,???\n";
    let names: Vec<String> = read_calls(text).unwrap().into_iter().map(|(_, name, _)| name).collect();
    let wanted = ["arn_aws_lambda_eu_1_function_pay", "api/x_y_1", "api/x_y_1-2", "api/x_y_1", "stra_e_7", "function"];
    assert_eq!(names, wanted);
    let long = format!("1,{0}?\n2,{0}!\n", "x".repeat(200));
    let names: Vec<String> = read_calls(&long).unwrap().into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, ["x".repeat(128), format!("{}-2", "x".repeat(126))]);
}

#[test]
fn gzip_is_known_by_its_first_bytes() {
    let folder = folder(&[("calls.csv.gz", "timestamp,function\n1,f\n")]);
    let packed = fs::read(folder.path().join("calls.csv.gz")).unwrap();
    for (name, bytes) in
        [("calls.GZ", packed.clone()), ("calls", packed.clone()), ("joined.gz", [packed.clone(), packed].concat())]
    {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        assert!(!Trace::read_calls(&path).unwrap().is_empty(), "{name}");
    }
}

#[test]
fn faults_in_calls_are_named_with_their_line() {
    let says = |line: &str| read_calls(&format!("timestamp,function\n1,f\n{line}\n")).unwrap_err();
    let wanted = "it must be like 2026-11-23T09:00:00.25Z, or seconds, ms, µs or ns since 1970";
    for time in ["", "yesterday", "-1", "nan", "inf", "1e21", "2026-13-01T00:00:00Z", "2026-11-23T09:00:00+25:00"] {
        assert_eq!(says(&format!("{time},f")), format!("./calls.csv, line 3: timestamp is {time:?}: {wanted}"));
    }
    assert_eq!(says("1"), "./calls.csv, line 3: 1 fields: the first line has 2");
    assert_eq!(says("1,f,1,1"), "./calls.csv, line 3: 4 fields: the first line has 2");
    assert_eq!(says("1,\"f"), "./calls.csv, line 3: a quote is not closed");
    assert_eq!(
        read_calls("1").unwrap_err(),
        "./calls.csv, line 1: 1 fields: a line is timestamp,function[,duration_ms]"
    );
    assert_eq!(
        read_calls("Zeit;Funktion\n1;f\n").unwrap_err(),
        "./calls.csv, line 1: timestamp is \"Zeit\": it must be like 2026-11-23T09:00:00.25Z, or seconds, ms, µs or ns since \
         1970; the first line may name the columns: timestamp, function, and where it is known duration_ms"
    );
    assert_eq!(
        read_calls("time,function,Billed Duration [h]\n1,f,2\n").unwrap_err(),
        "./calls.csv, line 1: the column \"Billed Duration [h]\" is not known: run times are read from duration_ms, duration_s, \
         duration_us or duration_ns"
    );
    // A head of which one column is known, and one of another language with a column more.
    for (head, what) in [
        ("timestamp,fonction,duree", "timestamp is \"timestamp\": "),
        ("Uhrzeit,Name,Region,Dauer", "4 fields: "),
        ("Zeit", "1 fields: "),
    ] {
        let fault = read_calls(&format!("{head}\n1,f,2\n")).unwrap_err();
        let wanted = "; the first line may name the columns: timestamp, function, and where it is known duration_ms";
        assert!(fault.starts_with(&format!("./calls.csv, line 1: {what}")) && fault.ends_with(wanted), "{fault}");
    }
    let says = |line: &str| read_calls(&format!("timestamp,function,duration_ms\n1,f\n{line}\n")).unwrap_err();
    assert_eq!(says("1,f,x"), "./calls.csv, line 3: duration_ms is \"x\": it must be a number of milliseconds");
    assert_eq!(says("1,f,-1"), "./calls.csv, line 3: duration_ms is -1: it must be from 0 to 604800000");
    assert_eq!(says("1,"), "./calls.csv, line 3: function is empty");
    let long = format!("1,{}", "f".repeat(4 << 20));
    assert_eq!(says(&long), "./calls.csv, line 3: the line is longer than 4194304 bytes: is this the right file?");
}

#[test]
fn calls_become_a_set_of_the_minutes_they_span() {
    let folder = folder(&[("calls.csv", "90,f,90000\n200,g,1\n100,f,0\n")]);
    let trace = Trace::read(&folder.path().join("calls.csv"), &[]).unwrap();
    let set = &trace.sets[0];
    assert_eq!((set.name.as_str(), set.minutes), ("calls.csv", 3));
    assert_eq!(minutes(&set.functions[0], 3), [(2, 1.0, 2), (0, 0.5, 2), (0, 0.0, 0)]);
    assert_eq!(set.functions[1].calls, 1);
    assert_eq!(
        Trace::from_calls("x", &[]).unwrap_err(),
        "there is no call in it: give at least one line timestamp,function[,duration_ms]"
    );
    let far = |second: i64| Call {
        at: Timestamp::from_millis(second * 1_000),
        function: "f".parse().unwrap(),
        run: Duration::ZERO,
    };
    assert!(Trace::from_calls("x", &[far(0), far(86_399 * 60)]).is_ok());
    assert_eq!(
        Trace::from_calls("x", &[far(0), far(86_400 * 60)]).unwrap_err(),
        "its calls span 86401 minutes, 86400 are allowed: give a shorter part"
    );
}

proptest! {
    /// Each run spread over its minutes one by one gives the same.
    #[test]
    fn loads_are_the_sum_of_the_runs(
        batches in prop::collection::vec((0_u32..20, 1_u32..4, 0_u64..400_000), 0..30),
    ) {
        let mut model = vec![(0_u32, 0_u64); 20];
        for &(minute, count, run_ms) in &batches {
            model[minute as usize].0 += count;
            let mut rest = run_ms;
            for minute in &mut model[minute as usize..] {
                minute.1 += u64::from(count) * rest.min(60_000);
                rest = rest.saturating_sub(60_000);
            }
        }
        let given = batches.iter().map(|&(minute, count, run_ms)| (minute, count, Duration::from_millis(run_ms)));
        let function = Function::new("f".parse().unwrap(), None, None, 20, given);
        let model: Vec<Minute> =
            model.into_iter().map(|(count, load_ms)| Minute::new(count, load_ms as f64 / 60_000.0)).collect();
        prop_assert_eq!(function.minutes(20).collect::<Vec<_>>(), model);
    }
}
