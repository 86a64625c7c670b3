//! Headers of a message, and which of a call's headers go along with it: to the guest and to the result.
//!
//! Must not: read or write a message; `kafka` does.

use super::Attributes;

/// Headers in the order of the message: name and value. A name may come more than once; a value may be null, which is not the
/// same as an empty one.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Names that begin like this, in any case, are this service's own: such a header of a call goes nowhere.
pub const OWN_PREFIX: &str = "forewarm.";
/// On a result: how many headers of its call had no room on it.
pub const HEADER_LEFT_OUT: &str = "forewarm.headers-left-out";
/// Most headers of a call that go along with it (inclusive).
pub const PASSED_ON_MAX: usize = 32;
/// Most bytes of the names and values of a call's headers that go along with it (inclusive).
pub const PASSED_ON_BYTES_MAX: usize = 16 << 10;

/// Names of W3C trace context: the guest sees the caller's, and the result has that of the call's own span.
const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];
/// Headers that say how the bytes of a message's value are to be read: those of a call are not those of its result.
const OF_THE_VALUE: [&str; 5] =
    ["content-type", "content-encoding", "__value_schema_id", "__TypeId__", "__ContentTypeId__"];
/// The header that says how the bytes of a message's key are to be read. It goes where the key goes.
pub const HEADER_OF_THE_KEY: &str = "__key_schema_id";

/// Keeps of a call's headers those that go along with it, in their order; answers how many had no room. One that has none is
/// left out, and those behind it that have room are not.
pub fn pass_on(headers: &mut Headers) -> usize {
    let (mut count, mut bytes, mut left_out) = (0, 0, 0);
    headers.retain(|(name, value)| {
        if is_own(name) || is_of_the_value(name) {
            return false;
        }
        let with_it = bytes + name.len() + value.as_ref().map_or(0, Vec::len);
        let fits = count < PASSED_ON_MAX && with_it <= PASSED_ON_BYTES_MAX;
        if fits {
            (count, bytes) = (count + 1, with_it);
        } else {
            left_out += 1;
        }
        fits
    });
    left_out
}

/// What the guest sees beside its payload: the call's own attributes, and then the headers that went along with the call. An
/// attribute hides the headers of its name, a later header an earlier one of the same name. A header whose value is null or
/// not UTF-8 is no attribute.
pub fn attributes<'a>(own: &'a Attributes, headers: &'a [(String, Option<Vec<u8>>)]) -> Vec<(&'a str, &'a str)> {
    let mut all: Vec<_> = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (nth, (name, value)) in headers.iter().enumerate() {
        let is_hidden = own.contains_key(name) || headers[nth + 1..].iter().any(|(later, _)| later == name);
        let text = value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
        if let (false, false, Some(text)) = (is_hidden, name == HEADER_OF_THE_KEY, text) {
            all.push((name, text));
        }
    }
    all
}

/// How many headers that went along with a call are no attribute, because their values are not UTF-8.
pub fn not_text(headers: &[(String, Option<Vec<u8>>)]) -> usize {
    let is_text = |value: &Vec<u8>| std::str::from_utf8(value).is_ok();
    let others = headers.iter().filter(|(name, _)| name != HEADER_OF_THE_KEY);
    others.filter(|(_, value)| value.as_ref().is_some_and(|value| !is_text(value))).count()
}

/// Adds to the headers of a result those that went along with its call, and how many had no room. The trace context is not
/// among them: the result has that of the call's span.
pub fn add_passed_on(result: &mut Headers, passed_on: Headers, left_out: usize) {
    result.extend(passed_on.into_iter().filter(|(name, _)| !is_one_of(&TRACE_CONTEXT, name)));
    if left_out > 0 {
        result.push((HEADER_LEFT_OUT.to_owned(), Some(left_out.to_string().into_bytes())));
    }
}

/// Takes from the headers of a result those that came with its call, for one that is larger than its topic takes, and notes
/// how many those were. False where there are none.
pub fn remove_passed_on(result: &mut Headers) -> bool {
    let before = result.len();
    let noted = result.iter().find(|(name, _)| name == HEADER_LEFT_OUT).and_then(|(_, value)| value.as_deref());
    let noted = noted.and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    result.retain(|(name, _)| is_own(name) || is_of_the_value(name) || is_one_of(&TRACE_CONTEXT, name));
    let removed = before - result.len();
    if removed > 0 {
        result.retain(|(name, _)| name != HEADER_LEFT_OUT);
        let left_out = removed + noted.unwrap_or(0);
        result.push((HEADER_LEFT_OUT.to_owned(), Some(left_out.to_string().into_bytes())));
    }
    removed > 0
}

fn is_own(name: &str) -> bool {
    name.get(..OWN_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(OWN_PREFIX))
}

fn is_of_the_value(name: &str) -> bool {
    is_one_of(&OF_THE_VALUE, name)
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, value: &[u8]) -> (String, Option<Vec<u8>>) {
        (name.to_owned(), Some(value.to_vec()))
    }

    fn names(headers: &Headers) -> Vec<&str> {
        headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn all_go_along_but_ours_and_those_that_say_how_to_read_the_value() {
        let mut headers = vec![
            header("Content-Type", b"application/json"),
            header("order-ref", b"o-9"),
            header("forewarm.dead-letter.reason", b"trap"),
            header("Forewarm.headers-left-out", b"7"),
            header("traceparent", b"00-1"),
            header("forewarmed", b"no name of ours"),
            header("__value_schema_id", b"\x01"),
            header("__key_schema_id", b"\x01\x02"),
            header("order-ref", b"o-10"),
            ("nothing".to_owned(), None),
            header("", b""),
        ];
        assert_eq!(pass_on(&mut headers), 0);
        let passed_on = ["order-ref", "traceparent", "forewarmed", "__key_schema_id", "order-ref", "nothing", ""];
        assert_eq!(names(&headers), passed_on);
        let mut result = vec![header("content-type", b"application/avro"), header("traceparent", b"00-2")];
        add_passed_on(&mut result, headers, 0);
        let expected =
            ["content-type", "traceparent", "order-ref", "forewarmed", "__key_schema_id", "order-ref", "nothing", ""];
        assert_eq!(names(&result), expected);
        assert_eq!((&result[1], &result[6]), (&header("traceparent", b"00-2"), &("nothing".to_owned(), None)));
    }

    #[test]
    fn both_bounds_are_inclusive_and_what_has_no_room_is_counted() {
        let of = |count: usize, value: usize| vec![header("n", &vec![b'x'; value]); count];
        for (mut headers, kept, left_out) in [
            (of(32, 10), 32, 0),
            (of(33, 10), 32, 1),
            (of(100, 0), 32, 68),
            (of(1, (16 << 10) - 1), 1, 0),
            (of(1, 16 << 10), 0, 1),
        ] {
            assert_eq!((pass_on(&mut headers), headers.len()), (left_out, kept));
        }
        // The second has no room, the third has.
        let mut headers = vec![header("a", &[0; 10_000]), header("b", &[0; 10_000]), header("c", &[0; 6_000])];
        assert_eq!((pass_on(&mut headers), names(&headers)), (1, vec!["a", "c"]));
    }

    #[test]
    fn the_guest_sees_text_and_its_own_attributes_first() {
        let own = Attributes::from([("b".to_owned(), "own".to_owned())]);
        let headers = vec![
            header("a", b"first"),
            header("b", b"hidden"),
            header("raw", b"\xff\x00"),
            header("a", "letzter ✓".as_bytes()),
            header("empty", b""),
            header("__key_schema_id", b"\x01"),
            ("null".to_owned(), None),
        ];
        assert_eq!(attributes(&own, &headers), [("b", "own"), ("a", "letzter ✓"), ("empty", "")]);
        assert_eq!(not_text(&headers), 1);
    }

    #[test]
    fn a_result_that_is_too_large_loses_the_calls_headers_and_says_how_many() {
        let mut result = vec![header("content-type", b"application/avro"), header("traceparent", b"00-2")];
        assert!(!remove_passed_on(&mut result));
        add_passed_on(&mut result, vec![header("a", b"1"), ("b".to_owned(), None)], 3);
        assert!(remove_passed_on(&mut result));
        let left_out = header(HEADER_LEFT_OUT, b"5");
        assert_eq!(result, [header("content-type", b"application/avro"), header("traceparent", b"00-2"), left_out]);
        assert!(!remove_passed_on(&mut result), "so that this ends");
    }

    proptest! {
        #[test]
        fn what_goes_along_is_within_bounds_and_the_rest_is_counted(
            sizes in prop::collection::vec((0_usize..40, prop::option::of(0_usize..4_000)), 0..80),
        ) {
            let mut headers: Headers =
                sizes.iter().map(|(name, value)| ("n".repeat(*name), value.map(|len| vec![b'v'; len]))).collect();
            let all = headers.clone();
            let left_out = pass_on(&mut headers);
            prop_assert_eq!(headers.len() + left_out, all.len());
            prop_assert!(headers.len() <= PASSED_ON_MAX);
            let bytes: usize = headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Vec::len)).sum();
            prop_assert!(bytes <= PASSED_ON_BYTES_MAX);
            let mut rest = all.iter();
            prop_assert!(headers.iter().all(|kept| rest.any(|one| one == kept)), "in their order");
            prop_assert!(attributes(&Attributes::default(), &headers).len() <= headers.len());
        }
    }
}
