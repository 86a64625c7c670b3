//! The table and the page say what the report has, and nothing that comes from a file breaks the page.

use super::super::judge::Tally;
use super::*;

fn report() -> Report {
    let score = |cold, idle, loads| Score::of([Tally { calls: 200, cold, idle, loads }].into_iter());
    let rows = vec![
        ("fixed:10m".to_owned(), None, score(100, 1_000, 100)),
        ("ours".to_owned(), Some(60.0), score(80, 800, 300)),
        ("ours".to_owned(), Some(3_600.0), score(20, 1_200, 450)),
        ("none".to_owned(), None, score(200, 0, 200)),
    ];
    let group = Group::new(ALL, 1, score(100, 1_000, 100), rows);
    let timelines = vec![Timeline {
        function: "f".to_owned(),
        class: Some("<b>".to_owned()),
        policy: "ours".to_owned(),
        price_s: Some(60.0),
        calls: 200,
        cold: 80,
        needs: vec![0, 2, 1],
        warm: vec![0, 1, 1],
    }];
    let set = Set { name: "a&b".to_owned(), minutes: 3, measured_from_minute: 0, groups: vec![group], timelines };
    Report::new(false, vec![set])
}

#[test]
fn the_table_has_every_row_and_the_advice() {
    let expected = "\
Set a&b: 1 functions, 200 calls, 3 minutes

policy     price  cold starts   p50 %   p75 %  mean %  idle ratio  loads ratio
fixed:10m      -          100   50.00   50.00   50.00       1.000         1.00
ours          1m           80   40.00   40.00   40.00       0.800         3.00
ours          1h           20   10.00   10.00   10.00       1.200         4.50
none           -          200  100.00  100.00  100.00       0.000         2.00

Set a&b, at equal idle time:

policy    against  idle ratio  cold starts  of that one  fewer %
ours    fixed:10m       1.000           50          100     50.0

Set target.price to 1m: 80 cold starts where keeping instances for 10 minutes has 100 (20 % fewer), with 0.80 times the idle \
time.
";
    assert_eq!(report().table(), expected);
}

#[test]
fn where_every_price_idles_longer_the_advice_says_so() {
    let mut report = report();
    report.sets[0].groups[0].rows.remove(1);
    assert_eq!(
        Report::new(false, report.sets).advice_text,
        "Set target.price to 1h: 20 cold starts where keeping instances for 10 minutes has 100 (80 % fewer), with 1.20 times \
         the idle time; every price tried idles longer than that, so try lower ones too."
    );
    assert_eq!(
        Report::new(true, vec![]).advice_text,
        "No policy with a price was replayed, so there is no price to advise."
    );
}

#[test]
fn the_page_is_whole_and_takes_names_as_text() {
    let page = report().html().unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("</svg>").count(), 2);
    // Both policies' points, the sweep's prices and the one cold start of the timeline.
    assert!(page.contains("a&amp;b") && !page.contains("a&b"));
    assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
    assert!(
        !page.contains("http:") || page.matches("http:").count() == page.matches("http://www.w3.org/2000/svg").count()
    );
    assert!(page.contains("<td>ours</td><td>1h</td><td>20</td>"));
}

#[test]
fn json_has_the_units_in_its_names() {
    let json = serde_json::to_value(report()).unwrap();
    let row = &json["sets"][0]["groups"][0]["rows"][1];
    assert_eq!(row["price_s"], 60.0);
    assert_eq!((&row["cold"], &row["idle_minutes"], &row["idle_ratio"]), (&80.into(), &800.into(), &0.8.into()));
    assert_eq!(json["advice"]["price_s"], 60.0);
    assert_eq!(json["sets"][0]["timelines"][0]["needs"], serde_json::json!([0, 2, 1]));
}
