//! Headers of a message, in and out.
//!
//! Must not: know what any header means.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, Header, Headers as _, OwnedHeaders};

/// Headers in the order of the message; a name may come more than once. A value that is null becomes an empty one.
pub type Headers = Vec<(String, Vec<u8>)>;

/// The headers of a message that came, and how many were left out because they cannot be read.
///
/// rdkafka panics on a header whose name is not UTF-8, and anyone who may write to the topic can send one. The panic ends
/// here: the header is left out and counted.
pub fn read(message: &impl rdkafka::message::Message<Headers = BorrowedHeaders>) -> (Headers, usize) {
    message.headers().map_or((Headers::new(), 0), read_borrowed)
}

fn read_borrowed(headers: &BorrowedHeaders) -> (Headers, usize) {
    let count = headers.count();
    let mut read = Headers::with_capacity(count);
    for index in 0..count {
        let header = catch_unwind(AssertUnwindSafe(|| {
            headers.try_get(index).map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
        }));
        if let Ok(Some(header)) = header {
            read.push(header);
        }
    }
    let left_out = count - read.len();
    (read, left_out)
}

/// Headers of a message to send; None where there are none.
pub fn write(headers: &[(String, Vec<u8>)]) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    Some(headers.iter().fold(empty, |written, (key, value)| written.insert(Header { key, value: Some(value) })))
}

/// The value of the last header named `name`, whose letters may be upper or lower case, where it is UTF-8.
pub fn text<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_and_the_last_of_a_name_counts() {
        let headers: Headers =
            vec![("a".to_owned(), b"1".to_vec()), ("A".to_owned(), b"2".to_vec()), ("b".to_owned(), vec![0xff])];
        let written = write(&headers).unwrap();
        assert_eq!(read_borrowed(written.as_borrowed()), (headers.clone(), 0));
        assert_eq!(text(&headers, "a"), Some("2"));
        assert_eq!(text(&headers, "b"), None);
        assert_eq!(text(&headers, "c"), None);
        assert!(write(&[]).is_none());
    }
}
