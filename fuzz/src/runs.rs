//! A second reader of commit metadata, as simple as can be: the judge of the first.
//!
//! It is written from the description of the form alone. Must not: share code with what it judges.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use forewarm::progress::METADATA_BYTES_MAX;
use forewarm::types::Sha256;

const PREFIX: &str = "forewarm1:";

fn check(next: i64, runs: &[u8]) -> Vec<u8> {
    Sha256::of(&[&next.to_be_bytes(), runs].concat()).0[..4].to_vec()
}

/// The text that holds these bytes of runs, with check bytes that fit.
pub fn sealed(next: i64, runs: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD_NO_PAD.encode([&check(next, runs), runs].concat()))
}

/// The runs in the text of a commit of `next`; `None` where it is not to be used.
pub fn read(next: i64, text: &str) -> Option<Vec<Range<i64>>> {
    if next < 0 || text.is_empty() {
        return text.is_empty().then(Vec::new);
    }
    let body = text.strip_prefix(PREFIX).filter(|_| text.len() <= METADATA_BYTES_MAX)?;
    let bytes = STANDARD_NO_PAD.decode(body).ok()?;
    let (found, runs) = bytes.split_at_checked(4)?;
    if found != check(next, runs) {
        return None;
    }
    let mut bounds = vec![i128::from(next)];
    let (mut distance, mut bits) = (0_i128, 0);
    for byte in runs {
        distance += i128::from(byte & 0x7f) << bits;
        bits += 7;
        // A distance of more than 63 bits is none, whether or not its highest bits are zeros.
        if *byte >= 0x80 {
            if bits >= 63 {
                return None;
            }
            continue;
        }
        if distance == 0 {
            return None;
        }
        bounds.push(bounds[bounds.len() - 1] + distance);
        (distance, bits) = (0, 0);
    }
    let is_whole = bits == 0 && bounds.len() % 2 == 1;
    if !is_whole || bounds[bounds.len() - 1] > i128::from(i64::MAX) {
        return None;
    }
    let bound = |at: usize| i64::try_from(bounds[at]).expect("none is above the last");
    Some((1..bounds.len()).step_by(2).map(|at| bound(at)..bound(at + 1)).collect())
}
