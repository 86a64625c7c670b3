//! Judges a fitted model on functions that the fit did not see: a fifth of them is held back.
//!
//! The judge is that of the backtest, with as many instances as needed, over the second half of the recording: a recording is
//! cut out of a running system, and the calls at its cut beginning say nothing of newcomers.
//!
//! Must not: fit, or decide whether a file is written; it says how the model did.

use super::fit::fold;
use super::policy::{Ours, Priced, Setup};
use super::report::Report;
use super::trace::{Function, Trace};
use super::{BASELINE, Error, Kind, MeasureFrom, Options, Policy, replay};
use crate::config::TargetConfig;
use crate::forecast::history::Model;

/// One of so many parts is held back.
pub const PARTS: u32 = 5;
/// Functions with a call in the measured half below which a model is not judged.
pub const FUNCTIONS_MIN: usize = 5;

/// What the two models are called in the report.
const FITTED: &str = "fitted";
const SHIPPED: &str = "shipped";

/// Whether a function is held back: by the SHA-256 of its owner's name, or of its own where the recording has no owners.
pub fn is_held_back(function: &Function) -> bool {
    fold(function, PARTS) == 0
}

/// The functions that are held back, without their classes.
///
/// # Errors
/// Where they are too few to judge a model on.
pub fn held_back(trace: &Trace) -> Result<Trace, Error> {
    let mut trace = trace.only_functions(is_held_back);
    let mut count = 0;
    for set in &mut trace.sets {
        let measured = MeasureFrom::SECOND_HALF.of(set)?;
        for function in &mut set.functions {
            function.class = None;
            let mut minutes = function.minutes(measured.end).skip(measured.start as usize);
            count += usize::from(minutes.any(|minute| minute.count > 0));
        }
    }
    if count < FUNCTIONS_MIN {
        return Err(Error::Option(format!(
            "{count} of the functions that were held back, a fifth of all, are called in the second half of the recording: \
             {FUNCTIONS_MIN} are needed to judge a model"
        )));
    }
    Ok(trace)
}

/// How a fitted model did, beside the shipped one and beside keep-alive.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The price sweeps of both models, and fixed:10m.
    pub report: Report,
    /// Functions that it was judged on.
    pub functions: usize,
    /// Cold starts of the fitted model within the idle time of fixed:10m; `None` where it idles longer at every price.
    pub fitted: Option<u64>,
    /// The same of the shipped model.
    pub shipped: Option<u64>,
    /// Cold starts of fixed:10m.
    pub fixed: u64,
}

/// Judges a model on the functions that were held back from its fit.
///
/// # Errors
/// Where they cannot be replayed.
pub fn judge(
    held_back: &Trace,
    fitted: &Model,
    newcomer_share: f64,
    target: &TargetConfig,
) -> Result<Judgement, Error> {
    let shipped = Model::shipped();
    let make = |model: &Model, setups: &[Setup]| -> Vec<Box<dyn Policy>> {
        Ours::make(model, newcomer_share as f32, target, setups)
    };
    let priced = [
        Priced { name: FITTED, make: &|_, setups| make(fitted, setups) },
        Priced { name: SHIPPED, make: &|_, setups| make(&shipped, setups) },
    ];
    let options = Options {
        path: std::path::PathBuf::new(),
        sets: Vec::new(),
        measure_from: MeasureFrom::SECOND_HALF,
        policies: vec![Kind::Priced(FITTED.to_owned()), Kind::Priced(SHIPPED.to_owned()), BASELINE],
        prices: super::prices(),
        single: false,
        timelines: Vec::new(),
    };
    let report = replay(held_back, &options, &priced)?;
    let (fixed, idle_minutes) = report.baseline();
    let cold = |policy| report.cold_within(policy, idle_minutes).map(|cold| cold.round() as u64);
    let functions = held_back.sets.iter().map(|set| set.functions.len()).sum();
    Ok(Judgement { functions, fitted: cold(FITTED), shipped: cold(SHIPPED), fixed, report })
}

impl Judgement {
    /// Than what the fitted model is worse; `None` where it is worse than neither.
    pub fn worse_than(&self) -> Option<&'static str> {
        let cold = |cold: Option<u64>| cold.unwrap_or(u64::MAX);
        let fitted = cold(self.fitted);
        match (fitted > cold(self.shipped), fitted > self.fixed) {
            (true, true) => Some("the shipped model and fixed:10m"),
            (true, false) => Some("the shipped model"),
            (false, true) => Some("fixed:10m"),
            (false, false) => None,
        }
    }

    /// The judgement in one sentence.
    pub fn sentence(&self) -> String {
        let cold = |cold: Option<u64>| match cold {
            Some(cold) => format!("{cold} cold starts"),
            None => "more idle time at every price".to_owned(),
        };
        format!(
            "Judged on {} functions that were held back (a fifth, by a hash of the owner's name, or of the function's where \
             there is no owner), over the second half of the recording, within the idle time of fixed:10m: {} with the fitted \
             model, {} with the shipped one, {} with fixed:10m.",
            self.functions,
            cold(self.fitted),
            cold(self.shipped),
            cold(Some(self.fixed))
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backtest::fit::fit;
    use crate::backtest::trace::Call;
    use crate::types::{FunctionName, Timestamp};

    /// `functions` functions, called every `every` minutes for three days, each at a minute of its own.
    fn trace(functions: i64, every: i64) -> Trace {
        let call = |n: i64, minute: i64| Call {
            at: Timestamp::from_millis(minute * 60_000),
            function: FunctionName::new(&format!("f-{n}")).unwrap(),
            run: Duration::ZERO,
        };
        let minutes =
            |n: i64| (0..3 * 1_440).step_by(every as usize).map(move |minute| call(n, minute + n * 7 % every));
        Trace::from_calls("all", &(0..functions).flat_map(minutes).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_fifth_of_the_functions_is_held_back_and_always_the_same() {
        let trace = trace(400, 1_440);
        let held = held_back(&trace).unwrap();
        let names: Vec<&str> = held.sets[0].functions.iter().map(|function| function.name.as_str()).collect();
        assert!((60..=100).contains(&names.len()), "{}", names.len());
        assert_eq!(held, held_back(&trace).unwrap());
        assert!(trace.sets[0].functions.iter().all(|f| is_held_back(f) == names.contains(&f.name.as_str())));
        let few = held_back(&self::trace(8, 1_440)).unwrap_err().to_string();
        assert!(few.ends_with("of the recording: 5 are needed to judge a model"), "{few}");
    }

    #[test]
    fn a_model_that_was_fitted_to_daily_calls_knows_them_and_the_shipped_one_does_not() {
        let trace = trace(40, 1_440);
        let fitted = fit(&trace, |function| !is_held_back(function)).unwrap().model;
        let judgement = judge(&held_back(&trace).unwrap(), &fitted, 0.25, &TargetConfig::default()).unwrap();
        assert_eq!(judgement.worse_than(), None, "{}", judgement.sentence());
        // One call a function in the measured day and a half, or two.
        assert!(judgement.fixed >= judgement.functions as u64 && judgement.fitted < Some(judgement.fixed / 4));
        let told = judgement.report.table();
        assert!(["\nfitted ", "\nshipped ", "\nfixed:10m "].iter().all(|row| told.contains(row)), "{told}");
    }

    #[test]
    fn a_model_that_knows_another_load_is_called_worse() {
        let daily = fit(&trace(40, 1_440), |_| true).unwrap().model;
        let judgement = judge(&held_back(&trace(40, 5)).unwrap(), &daily, 0.25, &TargetConfig::default()).unwrap();
        assert_eq!(judgement.worse_than(), Some("the shipped model and fixed:10m"), "{}", judgement.sentence());
    }

    #[test]
    fn worse_is_what_has_more_cold_starts_within_the_same_idle_time() {
        let report = Report::new(false, Vec::new());
        let worse = |fitted, shipped, fixed| {
            let judgement = Judgement { report: report.clone(), functions: 9, fitted, shipped, fixed };
            judgement.worse_than()
        };
        assert_eq!(worse(Some(5), Some(5), 5), None);
        assert_eq!(worse(Some(6), Some(5), 6), Some("the shipped model"));
        assert_eq!(worse(Some(6), Some(7), 5), Some("fixed:10m"));
        assert_eq!(worse(Some(6), None, 6), None);
        assert_eq!(worse(None, Some(9), 5), Some("the shipped model and fixed:10m"));
        assert_eq!(worse(None, None, 5), Some("fixed:10m"));
    }
}
