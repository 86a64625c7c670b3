//! The interface, asked by a client that knows nothing but TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::*;
use crate::types::{ConditionKind, WarmTarget};

/// A node with 2,500 functions, of which `shop/echo` can be explained.
struct Fake {
    not_ready: Option<String>,
    conditions: Vec<Condition>,
}

impl Node for Fake {
    fn failure(&self) -> Option<String> {
        None
    }

    fn not_ready(&self) -> Option<String> {
        self.not_ready.clone()
    }

    fn conditions(&self) -> Vec<Condition> {
        self.conditions.clone()
    }

    fn functions(&self, after: Option<&str>, limit: usize) -> Vec<FunctionSummary> {
        let names = (0..2_500).map(|nth| format!("f{nth:04}"));
        let wanted = names.filter(|name| after.is_none_or(|after| name.as_str() > after)).take(limit);
        let summary =
            |name: String| FunctionSummary { function: name.parse().unwrap(), ready: 1, in_flight: 0, enabled: true };
        wanted.map(summary).collect()
    }

    fn explain(&self, function: &FunctionName) -> Option<FunctionExplanation> {
        (function.as_str() == "shop/echo").then(|| FunctionExplanation {
            function: function.clone(),
            version: "1".to_owned(),
            enabled: true,
            floor: 1,
            ceiling: 64,
            in_flight: 0,
            history: 0.0,
            outlook: Vec::new(),
            notices: Vec::new(),
            wanted: WarmTarget::default(),
            granted: WarmTarget::default(),
            instance_bytes: 1,
        })
    }

    fn chains(&self, from: Option<&FunctionName>, after: Option<&str>, limit: usize) -> Vec<ChainExplanation> {
        let asked = (from.map(FunctionName::as_str), after, limit);
        assert!([(Some("a"), None, 100), (None, Some("b"), 1_000)].contains(&asked), "{asked:?}");
        Vec::new()
    }
}

fn admin(not_ready: Option<&str>) -> Admin {
    let fake = Fake { not_ready: not_ready.map(str::to_owned), conditions: Vec::new() };
    Admin::start(&settings("127.0.0.1:0", ""), Arc::new(fake)).unwrap()
}

fn settings(listen: &str, health_listen: &str) -> config::Admin {
    config::Admin { listen: listen.to_owned(), health_listen: health_listen.to_owned(), hosts: Vec::new() }
}

/// The status and the body of an answer, by a client that knows nothing but TCP.
fn ask(admin: &Admin, target: &str) -> (u16, serde_json::Value) {
    ask_as(admin.address().unwrap(), target, "Host: localhost\r\n")
}

fn ask_as(address: SocketAddr, target: &str, headers: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn health_says_why_not() {
    assert_eq!(ask(&admin(None), "/health/ready"), (200, serde_json::json!({"status": "ok"})));
    let waiting = admin(Some("the group has not let this node in"));
    assert_eq!(ask(&waiting, "/health/live").0, 200);
    let (status, body) = ask(&waiting, "/health/ready");
    assert_eq!((status, body["reason"].as_str()), (503, Some("the group has not let this node in")));
}

#[test]
fn conditions_are_named_and_turn_nothing_off() {
    let stands = |nth| Condition {
        kind: ConditionKind::PartitionStands,
        subject: format!("invocations/{nth}"),
        detail: "since 5 s".to_owned(),
    };
    let fake = Fake { not_ready: None, conditions: (0..CONDITIONS_MAX + 1).map(stands).collect() };
    let admin = Admin::start(&settings("127.0.0.1:0", ""), Arc::new(fake)).unwrap();
    let (status, body) = ask(&admin, "/health/ready");
    assert_eq!((status, body["status"].as_str()), (200, Some("ok")));
    let first = serde_json::json!({"kind": "partition-stands", "subject": "invocations/0", "detail": "since 5 s"});
    assert_eq!((&body["conditions"][0], body["conditions"].as_array().unwrap().len()), (&first, CONDITIONS_MAX));
    assert_eq!(ask(&admin, "/health/live").1, serde_json::json!({"status": "ok"}));
}

#[test]
fn functions_come_in_pages_with_a_bound() {
    let admin = admin(None);
    let names = |target: &str| {
        let (status, body) = ask(&admin, target);
        assert_eq!(status, 200, "{body}");
        let rows = body.as_array().unwrap();
        (rows.len(), rows[0]["function"].as_str().unwrap().to_owned())
    };
    assert_eq!(names("/functions"), (100, "f0000".to_owned()));
    assert_eq!(names("/functions?after=f0099&limit=5"), (5, "f0100".to_owned()));
    assert_eq!(names("/functions?limit=999999"), (1_000, "f0000".to_owned()));
    assert_eq!(ask(&admin, "/functions?after=f2499"), (200, serde_json::json!([])));
}

#[test]
fn a_name_with_a_slash_is_a_name_and_what_is_not_known_is_said() {
    let admin = admin(None);
    for target in ["/functions/shop/echo", "/functions/shop%2Fecho"] {
        let (status, body) = ask(&admin, target);
        assert_eq!((status, body["function"].as_str(), body["floor"].as_u64()), (200, Some("shop/echo"), Some(1)));
    }
    let (status, body) = ask(&admin, "/functions/nobody");
    assert_eq!((status, body["error"].as_str()), (404, Some("function nobody is not registered on this node")));
    assert_eq!(ask(&admin, "/functions/%20").0, 400);
    assert_eq!(ask(&admin, "/chains?from=a"), (200, serde_json::json!([])));
    assert_eq!(ask(&admin, "/chains?after=b&limit=9999"), (200, serde_json::json!([])));
    assert_eq!(ask(&admin, "/chains?from=%20").0, 400);
    assert_eq!(ask(&admin, "/else").0, 404);
}

#[test]
fn a_port_that_is_taken_is_named_and_a_client_that_stays_does_not_hold_up_the_end() {
    let admin = admin(None);
    let address = admin.address().unwrap().to_string();
    let fake = Arc::new(Fake { not_ready: None, conditions: Vec::new() });
    let fault = Admin::start(&settings(&address, ""), fake).err().unwrap().to_string();
    assert!(fault.starts_with(&format!("admin.listen: {address} cannot be listened on")), "{fault}");
    let stays = TcpStream::connect(admin.address().unwrap()).unwrap();
    drop(admin);
    drop(stays);
}

#[test]
fn half_requests_keep_nobody_from_an_answer() {
    let admin = admin(None);
    let address = admin.address().unwrap();
    let half = || {
        let mut stream = TcpStream::connect(address).unwrap();
        // Closed by the node where others came after it.
        let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: loc");
        stream
    };
    let held: Vec<TcpStream> = (0..300).map(|_| half()).collect();
    for _ in 0..10 {
        assert_eq!(ask(&admin, "/health/live").0, 200);
    }
    // More than are held at once were closed for those that came after them.
    let is_closed = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    };
    let closed = held.iter().filter(|stream| is_closed(stream)).count();
    assert!(closed >= 300 - server::CONNECTIONS_MAX, "{closed}");
}

#[test]
fn a_request_names_this_node_and_comes_from_no_foreign_page() {
    let admin = admin(None);
    let ask = |headers: &str| ask_as(admin.address().unwrap(), "/health/live", headers).0;
    assert_eq!(ask("Host: 127.0.0.1\r\n"), 200);
    assert_eq!(ask("Host: evil.example\r\n"), 403);
    assert_eq!(ask("Host: localhost\r\nOrigin: http://evil.example\r\n"), 403);
}

#[test]
fn health_may_have_an_address_of_its_own_and_answers_nothing_else_there() {
    let health = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fake = Arc::new(Fake { not_ready: Some("why".to_owned()), conditions: Vec::new() });
    let admin = Admin::start(&settings("", &health.to_string()), fake).unwrap();
    assert_eq!(admin.address(), None);
    let ask = |target: &str| {
        let mut stream = TcpStream::connect(health).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(["/health/live", "/health/ready", "/functions", "/chains"].map(ask), ["200", "503", "404", "404"]);
}

#[test]
fn bytes_that_are_no_request_do_no_harm() {
    let admin = admin(None);
    let whole =
        b"GET /functions/shop%2Fecho?after=%ff&limit=-1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    // Each beginning, each byte changed, and lines without an end.
    let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
    let changed = (0..whole.len()).flat_map(|at| {
        [0, b'\n', b' ', 0x80, 0xff].map(|byte| {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            bytes
        })
    });
    let long = [b"GET /".repeat(20_000), [&whole[..whole.len() - 9], &b"a: b\r\n".repeat(1_000)].concat()];
    for bytes in cut.chain(changed).chain(long) {
        let mut stream = TcpStream::connect(admin.address().unwrap()).unwrap();
        // Closed before it is written whole, where it is refused before.
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{:?} to {:?}", answer, bytes);
    }
    assert_eq!(ask(&admin, "/health/live").0, 200);
}
