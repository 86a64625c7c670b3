//! Numbers of instances in one byte: exact up to 32, then in steps of 8 %.
//!
//! A code stands for every number from its [`level`] (inclusive) to the next code's (exclusive). Must not: know what is
//! counted.

/// The largest number that is its own code.
const EXACT: u32 = 32;
/// Steps per factor of e above [`EXACT`]: 1 / ln 1.08.
const STEPS_PER_E: f64 = 12.993_6;

/// The code of a number; what is above the largest code's level has that code.
pub(super) fn code(number: u32) -> u8 {
    if number <= EXACT {
        return number as u8;
    }
    let steps = (f64::from(number) / f64::from(EXACT)).ln() * STEPS_PER_E;
    // A code's level is rounded up, so the logarithm alone may be one too low.
    let low = (f64::from(EXACT) + steps).min(254.0) as u8;
    if level(low + 1) <= number { low + 1 } else { low }
}

/// The least number that has this code.
pub(super) fn level(code: u8) -> u32 {
    if u32::from(code) <= EXACT {
        return u32::from(code);
    }
    let steps = f64::from(u32::from(code) - EXACT);
    // Saturates far above any number of instances.
    (f64::from(EXACT) * (steps / STEPS_PER_E).exp()).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_exact_while_small_and_never_overstates() {
        for number in 0..=EXACT {
            assert_eq!((code(number), level(code(number))), (number as u8, number));
        }
        assert_eq!([level(33), level(34), level(35)], [35, 38, 41]);
        for number in 33..5_000 {
            let code = code(number);
            assert!(level(code) <= number && number < level(code + 1), "{number}");
            assert!(f64::from(number) / f64::from(level(code)) < 1.1, "{number}");
        }
    }

    #[test]
    fn codes_have_an_end() {
        assert_eq!(code(u32::MAX), 255);
        assert!((0..255).all(|code| level(code) < level(code + 1)));
    }
}
