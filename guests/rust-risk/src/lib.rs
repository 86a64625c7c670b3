//! A function whose `init` is expensive: it computes a table of 4,194,304 risk scores (16 MiB), and `handle` looks one up.
//!
//! It stands for every function that loads a model or builds an index when it starts: tens of milliseconds before the first
//! answer, microseconds after. It must stay deterministic (no clock, no randomness, no imports), so that a snapshot taken
//! after `init` is as good as `init` itself. The scores mean nothing.

use std::cell::RefCell;

wit_bindgen::generate!({ path: "../../wit", world: "function" });

/// Number of accounts in the table; 4 bytes each make 16 MiB.
const ACCOUNTS: usize = 4 << 20;

/// Scores from here on (0 to 1,000, inclusive) are sent to review.
const REVIEW_FROM_PERMILLE: u32 = 600;

/// Scores from here on (0 to 1,000, inclusive) are refused.
const REFUSE_FROM_PERMILLE: u32 = 900;

thread_local! {
    /// Risk of each account, 0 to 1; empty until `init` has run.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

struct Risk;

impl Guest for Risk {
    fn init() -> Result<(), String> {
        SCORES.with_borrow_mut(|scores| {
            scores.clear();
            scores.reserve_exact(ACCOUNTS);
            scores.extend((0..ACCOUNTS).map(|account| score(account as u64)));
        });
        Ok(())
    }

    fn handle(call: Invocation) -> Result<Vec<u8>, Error> {
        let account = account_in(&call.payload);
        let found = SCORES.with_borrow(|scores| scores.get((account % ACCOUNTS as u64) as usize).copied());
        let Some(risk) = found else {
            return Err(Error {
                code: "not_initialized".to_owned(),
                message: "the table is empty: init must run before the first call".to_owned(),
            });
        };
        let permille = (risk * 1000.0) as u32;
        let verdict = match permille {
            REFUSE_FROM_PERMILLE.. => "refuse",
            REVIEW_FROM_PERMILLE.. => "review",
            _ => "accept",
        };
        Ok(format!(r#"{{"account":{account},"risk_permille":{permille},"verdict":"{verdict}"}}"#).into_bytes())
    }
}

/// A score from three made-up traits of an account; between 0 and 1, by the algebraic sigmoid.
fn score(account: u64) -> f32 {
    let bits = mix(account);
    let age_years = (bits & 0xff) as f32 / 16.0;
    let payments_a_day = ((bits >> 8) & 0xffff) as f32 / 2048.0;
    let disputes = ((bits >> 24) & 0xf).saturating_sub(9) as f32;
    let weighted = -1.5 - 0.25 * age_years + 0.06 * payments_a_day + 0.9 * disputes;
    0.5 + 0.5 * weighted / (1.0 + weighted * weighted).sqrt()
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): spreads neighbouring numbers over all 64 bits.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The first decimal number after the word `account`, else the first of the payload, else 0.
///
/// Deliberately lenient: load generators send whatever they like. A number beyond 64 bits becomes the largest one.
fn account_in(payload: &[u8]) -> u64 {
    let key = b"account";
    let from = payload.windows(key.len()).position(|window| window == key).map_or(0, |at| at + key.len());
    first_number(&payload[from..]).or_else(|| first_number(payload)).unwrap_or(0)
}

fn first_number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

export!(Risk);
