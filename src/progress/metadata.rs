//! The done-set as the metadata text of a commit, and back.
//!
//! Form: `forewarm1:` and then, in base64 without padding, 4 check bytes followed by two LEB128 varints for each run of
//! done offsets, in order: how many offsets lie between the end of the run before (for the first: the committed offset)
//! and its start, and how many it spans; neither is ever 0. An empty set is an empty text.
//!
//! The check bytes are the first of the SHA-256 over the committed offset and the runs. The offset is in it because the
//! runs count from it: some tools copy a group's commits to another cluster and translate the offset, and some rewrite
//! the offset and leave the text. Read against another offset the runs would name calls that were never made.
//!
//! Must not: trust a byte of it. Damage costs repeated calls, never a lost one, never more memory than the text's length
//! allows.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::types::Sha256;

/// Longest metadata text, in bytes (inclusive). A broker refuses more than its `offset.metadata.max.bytes`, 4,096 by
/// default; the rest is left to an operator who set that lower.
pub const METADATA_BYTES_MAX: usize = 3_000;

const NAME: &str = "forewarm";
const PREFIX: &str = "forewarm1:";
const CHECK_BYTES: usize = 4;

/// Most bytes of runs that fit (inclusive): base64 makes 4 characters of 3 bytes.
pub(super) const RUNS_BYTES_MAX: usize = (METADATA_BYTES_MAX - PREFIX.len()) / 4 * 3 - CHECK_BYTES;

/// Why the metadata of a commit was not used. The calls that it listed as done run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataFault {
    /// It is longer than this service writes.
    #[error("commit metadata has {bytes} bytes where at most {METADATA_BYTES_MAX} are written; its calls run again")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It does not begin as this service's does.
    #[error("commit metadata was not written by forewarm: check that no other program commits for this group")]
    Foreign,
    /// Another version of this service wrote it.
    #[error("commit metadata is of another version of forewarm; its calls run again, once")]
    Version,
    /// It is no base64.
    #[error("commit metadata is damaged (no valid base64); its calls run again")]
    Encoding,
    /// It does not belong to this committed offset, or bytes in it changed.
    #[error("commit metadata is damaged or belongs to another offset (check bytes differ); its calls run again")]
    Check,
    /// Its check bytes are right, but it does not hold runs of offsets.
    #[error("commit metadata holds no valid runs of offsets; its calls run again")]
    Runs,
    /// There is metadata without a committed offset.
    #[error("commit metadata came without a committed offset; its calls run again")]
    NoOffset,
}

/// Writes `runs`, which are in order, disjoint and above `next`. Returns the text and how many runs, the highest, were left
/// out for want of room.
pub(super) fn encode(next: i64, runs: impl Iterator<Item = Range<i64>>) -> (String, usize) {
    let mut bytes = vec![0; CHECK_BYTES];
    let mut at = next;
    let mut left_out = 0;
    for run in runs {
        let whole = bytes.len();
        if left_out == 0 {
            push_varint(&mut bytes, run.start.abs_diff(at));
            push_varint(&mut bytes, run.end.abs_diff(run.start));
            at = run.end;
        }
        // Only from the end: distances count from the run before, and the lowest are those that matter soonest.
        if left_out > 0 || bytes.len() > CHECK_BYTES + RUNS_BYTES_MAX {
            bytes.truncate(whole);
            left_out += 1;
        }
    }
    if bytes.len() == CHECK_BYTES {
        return (String::new(), left_out);
    }
    let check = check(next, &bytes[CHECK_BYTES..]);
    bytes[..CHECK_BYTES].copy_from_slice(&check);
    let mut text = String::with_capacity(METADATA_BYTES_MAX);
    text.push_str(PREFIX);
    STANDARD_NO_PAD.encode_string(&bytes, &mut text);
    (text, left_out)
}

/// Reads the runs that were committed together with `next`: in order, disjoint, above `next`, not empty.
pub(super) fn decode(next: i64, text: &str) -> Result<Vec<Range<i64>>, MetadataFault> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.len() > METADATA_BYTES_MAX {
        return Err(MetadataFault::TooLong { bytes: text.len() });
    }
    let Some(body) = text.strip_prefix(PREFIX) else {
        return Err(if is_other_version(text) { MetadataFault::Version } else { MetadataFault::Foreign });
    };
    let bytes = STANDARD_NO_PAD.decode(body).map_err(|_| MetadataFault::Encoding)?;
    let (found, mut rest) = bytes.split_at_checked(CHECK_BYTES).ok_or(MetadataFault::Check)?;
    if found != check(next, rest) {
        return Err(MetadataFault::Check);
    }
    let mut runs = Vec::with_capacity(rest.len() / 2);
    let mut at = next;
    while !rest.is_empty() {
        let start = take_distance(at, &mut rest).ok_or(MetadataFault::Runs)?;
        at = take_distance(start, &mut rest).ok_or(MetadataFault::Runs)?;
        runs.push(start..at);
    }
    Ok(runs)
}

/// `forewarm`, digits, a colon.
fn is_other_version(text: &str) -> bool {
    let version = text.strip_prefix(NAME).and_then(|rest| rest.split_once(':')).map(|(version, _)| version);
    version.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check(next: i64, runs: &[u8]) -> [u8; CHECK_BYTES] {
    let mut checked = Vec::with_capacity(size_of::<i64>() + runs.len());
    checked.extend_from_slice(&next.to_be_bytes());
    checked.extend_from_slice(runs);
    let [a, b, c, d, ..] = Sha256::of(&checked).0;
    [a, b, c, d]
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// `from` plus the distance that `rest` begins with. None where that is 0, ends early, or leads past the last offset.
fn take_distance(from: i64, rest: &mut &[u8]) -> Option<i64> {
    let mut distance = 0_i64;
    for shift in (0..63).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        distance |= i64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return if distance == 0 { None } else { from.checked_add(distance) };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text_of(next: i64, bytes: &[u8]) -> String {
        let mut all = check(next, bytes).to_vec();
        all.extend_from_slice(bytes);
        format!("{PREFIX}{}", STANDARD_NO_PAD.encode(all))
    }

    #[test]
    fn the_form_is_fixed() {
        assert_eq!(encode(100, std::iter::empty()), (String::new(), 0));
        let (text, left_out) = encode(100, [105..110, 400..401].into_iter());
        assert_eq!(text, text_of(100, &[5, 5, 0xa2, 0x02, 1]));
        // Committed text outlives a release: a change of this constant needs a new version.
        assert_eq!(text, "forewarm1:hYHLpAUFogIB");
        assert_eq!(left_out, 0);
        assert_eq!(decode(100, &text), Ok(vec![105..110, 400..401]));
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_top() {
        let runs = (0..2_000).map(|n| 1 + 2 * n..2 + 2 * n);
        let (text, left_out) = encode(0, runs);
        assert_eq!(RUNS_BYTES_MAX, 2_237);
        assert_eq!(left_out, 2_000 - 1_118);
        assert_eq!(text.len(), 10 + (4_usize + 2 * 1_118).div_ceil(3) * 4 - 1);
        let kept = decode(0, &text).unwrap();
        assert_eq!((kept.len(), kept.last()), (1_118, Some(&(2_235..2_236))));
    }

    #[test]
    fn every_kind_of_damage_has_its_name() {
        let (text, _) = encode(100, std::iter::once(105..110));
        assert_eq!(decode(101, &text), Err(MetadataFault::Check));
        assert_eq!(decode(100, &text[..text.len() - 3]), Err(MetadataFault::Encoding));
        assert_eq!(decode(100, &text[..text.len() - 2]), Err(MetadataFault::Check));
        assert_eq!(decode(100, PREFIX), Err(MetadataFault::Check));
        assert_eq!(decode(100, "forewarm1:????"), Err(MetadataFault::Encoding));
        assert_eq!(decode(100, "forewarm2:AAAA"), Err(MetadataFault::Version));
        assert_eq!(decode(100, "forewarm:AAAA"), Err(MetadataFault::Foreign));
        assert_eq!(decode(100, "host-7"), Err(MetadataFault::Foreign));
        assert_eq!(decode(100, &"é".repeat(1_501)), Err(MetadataFault::TooLong { bytes: 3_002 }));
    }

    #[test]
    fn runs_that_cannot_be_are_refused_even_with_right_check_bytes() {
        let ten = [0xff; 10];
        let far = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1];
        for bytes in [&[0, 1][..], &[1, 0], &[1], &[0x80], &[1, 1, 1], &ten, &far] {
            assert_eq!(decode(1, &text_of(1, bytes)), Err(MetadataFault::Runs), "{bytes:?}");
        }
        assert_eq!(decode(0, &text_of(0, &far[..9])), Err(MetadataFault::Runs));
    }

    #[test]
    fn the_widest_distances_survive() {
        let (text, _) = encode(0, std::iter::once(i64::MAX - 1..i64::MAX));
        assert_eq!(decode(0, &text), Ok(std::iter::once(i64::MAX - 1..i64::MAX).collect()));
    }

    proptest! {
        #[test]
        fn what_fits_comes_back(next in 0_i64..1 << 40, steps in prop::collection::vec((1_i64..1 << 20, 1_i64..1 << 20), 0..300)) {
            let mut at = next;
            let runs: Vec<_> = steps.into_iter().map(|(gap, span)| { let start = at + gap; at = start + span; start..at }).collect();
            let (text, left_out) = encode(next, runs.iter().cloned());
            prop_assert!(text.len() <= METADATA_BYTES_MAX);
            prop_assert_eq!(left_out, 0);
            prop_assert_eq!(decode(next, &text), Ok(runs));
        }

        #[test]
        fn no_text_does_harm(text in ".{0,80}", next in any::<i64>()) {
            prop_assert!(text.is_empty() || decode(next, &text).is_err());
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..64), next in any::<i64>()) {
            if let Ok(runs) = decode(next, &text_of(next, &bytes)) {
                prop_assert!(runs.len() <= bytes.len() / 2);
                prop_assert!(runs.iter().all(|run| run.start > next && !run.is_empty()));
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }

        #[test]
        fn a_changed_character_is_noticed(at in 0_usize..22, to in any::<char>()) {
            let (text, _) = encode(100, [105..110, 400..401].into_iter());
            let mut damaged: Vec<char> = text.chars().collect();
            prop_assume!(at < damaged.len() && damaged[at] != to);
            damaged[at] = to;
            prop_assert!(decode(100, &damaged.into_iter().collect::<String>()).is_err());
        }
    }
}
