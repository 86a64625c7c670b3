//! Headers of a message, in and out.
//!
//! Must not: know what any header means.

use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};

pub use crate::types::Headers;

/// Most headers, and most bytes of their names and values together, that are taken (both inclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many.
    pub count_max: usize,
    /// Bytes of names and values.
    pub bytes_max: usize,
}

impl Bounds {
    /// What librdkafka itself allows: for messages that this service wrote, and for the topics that commands read.
    pub const LIBRDKAFKA: Self = Self { count_max: 100_000, bytes_max: usize::MAX };
}

/// More headers than are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overfull {
    /// How many there are; None where they are more than librdkafka reads (100,000), or are none at all by their form.
    pub count: Option<usize>,
    /// Bytes of names and values up to the one that was too much; 0 where their count alone was.
    pub bytes: usize,
}

/// The headers of a message that came, and how many were left out because their names are not UTF-8. Headers that librdkafka
/// cannot read are none.
pub fn read(message: &BorrowedMessage<'_>) -> (Headers, usize) {
    raw::read_borrowed(message, Bounds::LIBRDKAFKA).unwrap_or_default()
}

/// Bytes of names and values.
pub fn bytes(headers: &[(String, Option<Vec<u8>>)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum()
}

/// What headers take in memory: their place in the list, and their texts with what an allocator needs for each.
pub fn bytes_in_memory(headers: &[(String, Option<Vec<u8>>)]) -> usize {
    const LEAST: usize = 32;
    let of = |len: usize| if len == 0 { 0 } else { (len + 8).next_multiple_of(16).max(LEAST) };
    let texts = headers.iter().map(|(name, value)| of(name.len()) + of(value.as_ref().map_or(0, Vec::len)));
    texts.sum::<usize>() + std::mem::size_of_val(headers)
}

pub(super) use raw::read_raw;

/// rdkafka panics on a header whose name is not UTF-8, and anyone who may write to a topic can send one. So names are read as
/// the bytes that they are.
mod raw {
    #![expect(unsafe_code, reason = "rdkafka has no way to a header's name as bytes")]

    use std::ffi::CStr;
    use std::ptr;

    use rdkafka::bindings as sys;
    use rdkafka::message::BorrowedMessage;
    use rdkafka::types::RDKafkaRespErr as Code;

    use super::{Bounds, Headers, Overfull};

    pub(super) fn read_borrowed(message: &BorrowedMessage<'_>, bounds: Bounds) -> Result<(Headers, usize), Overfull> {
        // SAFETY: the message is alive as long as it is borrowed.
        unsafe { read_raw(message.ptr(), bounds) }
    }

    /// See [`Record::headers`](crate::kafka::queue::Record::headers).
    ///
    /// # Safety
    /// The message is alive.
    pub(in crate::kafka) unsafe fn read_raw(
        message: *const sys::rd_kafka_message_t,
        bounds: Bounds,
    ) -> Result<(Headers, usize), Overfull> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; the headers that it answers with are its own, and live as long.
        match unsafe { sys::rd_kafka_message_headers(message, &raw mut headers) } {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            Code::RD_KAFKA_RESP_ERR__NOENT => return Ok((Headers::new(), 0)),
            _ => return Err(Overfull { count: None, bytes: 0 }),
        }
        // SAFETY: the headers are alive, here and in `read_list`.
        unsafe { read_list(headers, bounds) }
    }

    /// # Safety
    /// The headers are alive.
    pub(super) unsafe fn read_list(
        headers: *const sys::rd_kafka_headers_t,
        bounds: Bounds,
    ) -> Result<(Headers, usize), Overfull> {
        // SAFETY: as the caller promises.
        let count = unsafe { sys::rd_kafka_header_cnt(headers) };
        if count > bounds.count_max {
            return Err(Overfull { count: Some(count), bytes: 0 });
        }
        let (mut read, mut left_out, mut bytes) = (Headers::with_capacity(count), 0, 0_usize);
        for index in 0..count {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers are alive. A name ends with a zero byte, a value has `len` bytes; both live as long as
            // the headers, and are copied here.
            let (name, value) = unsafe {
                let code = sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut len);
                if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                    break;
                }
                let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), len));
                (CStr::from_ptr(name).to_bytes(), value)
            };
            bytes = bytes.saturating_add(name.len() + value.map_or(0, <[u8]>::len));
            if bytes > bounds.bytes_max {
                return Err(Overfull { count: Some(count), bytes });
            }
            match std::str::from_utf8(name) {
                Ok(name) => read.push((name.to_owned(), value.map(<[u8]>::to_vec))),
                Err(_) => left_out += 1,
            }
        }
        Ok((read, left_out))
    }

    #[cfg(test)]
    pub(super) mod tests {
        use super::*;

        /// Headers with these names and values, as librdkafka keeps them, read back.
        pub(in crate::kafka::headers) fn through_librdkafka(
            headers: &[(&[u8], Option<&[u8]>)],
            bounds: Bounds,
        ) -> Result<(Headers, usize), Overfull> {
            // SAFETY: a list of our own, destroyed once; librdkafka copies what is added.
            unsafe {
                let list = sys::rd_kafka_headers_new(headers.len());
                for (name, value) in headers {
                    let (name_len, value_len) = (name.len().cast_signed(), value.map_or(0, <[u8]>::len).cast_signed());
                    let value = value.map_or(ptr::null(), <[u8]>::as_ptr);
                    sys::rd_kafka_header_add(list, name.as_ptr().cast(), name_len, value.cast(), value_len);
                }
                let read = read_list(list, bounds);
                sys::rd_kafka_headers_destroy(list);
                read
            }
        }
    }
}

/// Headers of a message to send; None where there are none.
pub fn write(headers: &[(String, Option<Vec<u8>>)]) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    Some(headers.iter().fold(empty, |written, (key, value)| written.insert(Header { key, value: value.as_ref() })))
}

/// The value of the last header named `name`, whose letters may be upper or lower case; None where that is null.
pub fn value<'a>(headers: &'a [(String, Option<Vec<u8>>)], name: &str) -> Option<&'a [u8]> {
    headers.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1.as_deref()
}

/// [`value`], where it is UTF-8.
pub fn text<'a>(headers: &'a [(String, Option<Vec<u8>>)], name: &str) -> Option<&'a str> {
    std::str::from_utf8(value(headers, name)?).ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::raw::tests::through_librdkafka;
    use super::*;

    const ANY: Bounds = Bounds::LIBRDKAFKA;

    #[test]
    fn headers_survive_and_the_last_of_a_name_counts() {
        let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
        let null = ("n".to_owned(), None);
        let headers: Headers =
            vec![header("a", b"1"), header("A", b"2"), header("b", &[0xff]), null, header("n", b""), header("b", b"")];
        let raw: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
        assert_eq!(through_librdkafka(&raw, ANY), Ok((headers.clone(), 0)));
        let headers: Headers = headers[..4].to_vec();
        assert_eq!(text(&headers, "a"), Some("2"));
        assert_eq!(text(&headers, "b"), None);
        assert_eq!(text(&headers, "c"), None);
        assert_eq!(text(&headers, "n"), None);
        let written = write(&headers).unwrap();
        let written: Vec<_> =
            written.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(written, headers);
        assert!(write(&[]).is_none());
    }

    #[test]
    fn names_that_are_no_text_are_left_out_and_counted_and_panic_nowhere() {
        let read = through_librdkafka(&[(b"\xff\xfe", Some(b"1")), (b"ok", Some(b"2")), (b"caf\xe9", None)], ANY);
        assert_eq!(read, Ok((vec![("ok".to_owned(), Some(b"2".to_vec()))], 2)));
    }

    #[test]
    fn nothing_is_taken_of_headers_that_are_too_many_or_too_large() {
        let four: &[(&[u8], Option<&[u8]>)] =
            &[(b"a", Some(b"")), (b"b", None), (b"\xff", None), (b"c", Some(b"12345"))];
        let bounds = |count_max, bytes_max| Bounds { count_max, bytes_max };
        assert_eq!(through_librdkafka(four, bounds(4, 9)).map(|(read, left_out)| (read.len(), left_out)), Ok((3, 1)));
        assert_eq!(through_librdkafka(four, bounds(3, 9)), Err(Overfull { count: Some(4), bytes: 0 }));
        assert_eq!(through_librdkafka(four, bounds(4, 8)), Err(Overfull { count: Some(4), bytes: 9 }));
    }

    #[test]
    fn empty_headers_count_for_what_they_take() {
        let headers: Headers =
            (0..1_000).map(|nth| (if nth == 0 { "a" } else { "" }.to_owned(), Some(Vec::new()))).collect();
        assert_eq!((bytes(&headers), bytes_in_memory(&headers)), (1, 48 * 1_000 + 32));
    }
}
