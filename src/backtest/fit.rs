//! Fits the fleet's model to recorded calls: boosted trees by the crate `forust-ml`, made into [`Model`]'s own form.
//!
//! Every minute of every function is one example for the first instance, and one for each further level that an outlook
//! would ask about, with whether it was reached. Deterministic: the same calls give the same file.
//!
//! Must not: know how records make their numbers, or be needed to run.

use std::sync::Arc;

use forust_ml::gradientbooster::GrowPolicy;
use forust_ml::objective::ObjectiveType;
use forust_ml::sampler::SampleMethod;
use forust_ml::{GradientBooster, Matrix};
use sha2::{Digest, Sha256};

use super::Error;
use super::trace::{Function, Trace};
use crate::forecast::history::{History, Model, Node, Trees};

/// Examples of one set of trees at most; of more an even sample is taken. Some 600 MB of memory.
const EXAMPLES_MAX: u64 = 900_000;
/// Examples below which a fit would only learn them by heart.
const EXAMPLES_MIN: usize = 10_000;
/// What the weight of one example is at most: levels far up stand for many numbers.
const WEIGHT_MAX: f32 = 20.0;

/// How one set of trees is grown. The numbers were chosen by cross-validation over owners (docs/forecasting.md).
struct Growth {
    trees: usize,
    leaves: usize,
    learning_rate: f32,
    leaf_weight_min: f32,
    l2: f32,
    columns: f64,
}

const OF_FIRST: Growth =
    Growth { trees: 200, leaves: 31, learning_rate: 0.06, leaf_weight_min: 10.0, l2: 5.0, columns: 0.7 };
const OF_FURTHER: Growth =
    Growth { trees: 150, leaves: 24, learning_rate: 0.08, leaf_weight_min: 20.0, l2: 10.0, columns: 0.6 };

/// What was fitted.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The model.
    pub model: Model,
    /// Why its part for further instances is that of the shipped model; None where it was fitted too. Calls that never need a
    /// second instance say nothing of it.
    pub further_is_shipped: Option<String>,
}

/// Fits a model to the functions of the trace for which `included` holds.
///
/// # Errors
/// Where there are too few calls to learn from.
pub fn fit(trace: &Trace, included: impl Fn(&Function) -> bool) -> Result<Fitted, Error> {
    let functions = || {
        let sets = trace.sets.iter();
        sets.flat_map(|set| set.functions.iter().map(|function| (set.minutes, function)))
            .filter(|(_, function)| included(function))
    };
    let (mut first_of, mut further_of) = (0_u64, 0_u64);
    for (minutes, function) in functions() {
        first_of += u64::from(minutes);
        walk(function, minutes, |history, _| further_of += history.further_levels());
    }
    let (mut first, mut further) = (Examples::new(first_of), Examples::new(further_of));
    for (minutes, function) in functions() {
        let mut nth = Sampling::of(function);
        walk(function, minutes, |history, need| {
            let chance = nth.next();
            if chance < first.share {
                first.add(&history.first_features(), need > 0, 1.0);
            }
            if chance < further.share {
                history.further_rows(need, |row, reached, width| further.add(row, reached, width.min(WEIGHT_MAX)));
            }
        });
    }
    let first = first.boost(&OF_FIRST)?;
    let (further, further_is_shipped) = match further.too_few() {
        None => (Arc::new(further.boost(&OF_FURTHER)?), None),
        Some(what) => (Model::shipped().further, Some(what)),
    };
    Ok(Fitted { model: Model { first: Arc::new(first), further }, further_is_shipped })
}

/// Which of `folds` parts an owner's functions belong to: all of one owner to the same, so that no function is judged by
/// a model that has seen its siblings. Without an owner each function is its own.
pub fn fold(function: &Function, folds: u32) -> u32 {
    let digest = Sha256::digest(function.owner.as_deref().unwrap_or(function.name.as_str()));
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) % folds.max(1)
}

/// Hands out each minute's record from before it, with its need.
fn walk(function: &Function, minutes: u32, mut each: impl FnMut(&History, u32)) {
    let mut history = History::new(0);
    for (minute, seen) in (0..).zip(function.minutes(minutes)) {
        each(&history, seen.need);
        history.saw(minute, seen.need, seen.load as f32);
    }
}

/// Even numbers from 0.0 to 1.0 (exclusive), other ones for each function: splitmix64 (G. Steele et al., 2014).
struct Sampling(u64);

impl Sampling {
    fn of(function: &Function) -> Self {
        let digest = Sha256::digest(function.name.as_str());
        Self(digest.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte)))
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Examples of one set of trees.
struct Examples<const N: usize> {
    share: f64,
    rows: Vec<[f32; N]>,
    reached: Vec<f64>,
    weights: Vec<f64>,
}

impl<const N: usize> Examples<N> {
    fn new(all: u64) -> Self {
        let share = EXAMPLES_MAX as f64 / all.max(1) as f64;
        Self { share, rows: Vec::new(), reached: Vec::new(), weights: Vec::new() }
    }

    fn add(&mut self, row: &[f32; N], reached: bool, weight: f32) {
        self.rows.push(*row);
        self.reached.push(f64::from(u8::from(reached)));
        self.weights.push(f64::from(weight));
    }

    /// Why nothing can be fitted to these; None where it can.
    fn too_few(&self) -> Option<String> {
        let count = self.rows.len();
        if count < EXAMPLES_MIN {
            return Some(format!("{count} examples are too few to fit a model to"));
        }
        let are_alike = self.reached.iter().all(|&reached| reached == self.reached[0]);
        are_alike.then(|| "all examples are alike".to_owned())
    }

    fn boost(self, growth: &Growth) -> Result<Trees<N>, Error> {
        let count = self.rows.len();
        if let Some(what) = self.too_few() {
            return Err(Error::Option(format!("{what}: record calls over more functions or a longer time")));
        }
        let mut columns = vec![0.0; count * N];
        for (nth, row) in self.rows.iter().enumerate() {
            for (column, value) in row.iter().enumerate() {
                columns[column * count + nth] = f64::from(*value);
            }
        }
        drop(self.rows);
        let mut booster = GradientBooster::default()
            .set_objective_type(ObjectiveType::LogLoss)
            .set_iterations(growth.trees)
            .set_learning_rate(growth.learning_rate)
            .set_max_leaves(growth.leaves)
            .set_max_depth(12)
            .set_l2(growth.l2)
            .set_min_leaf_weight(growth.leaf_weight_min)
            .set_colsample_bytree(growth.columns)
            .set_sample_method(SampleMethod::Random)
            .set_subsample(0.8)
            .set_nbins(255)
            .set_initialize_base_score(true)
            .set_parallel(true)
            .set_seed(1);
        booster.grow_policy = GrowPolicy::LossGuide;
        booster
            .fit(&Matrix::new(&columns, count, N), &self.reached, &self.weights, None)
            .map_err(|error| Error::Option(format!("the model could not be fitted: {error}")))?;
        flatten(&booster)
    }
}

/// The booster's trees one after another, the two children of a node side by side behind it.
fn flatten<const N: usize>(booster: &GradientBooster) -> Result<Trees<N>, Error> {
    const UNSET: Node = Node { value: 0.0, feature: Node::LEAF, child: 0 };
    let narrow = |place: usize| {
        u16::try_from(place).map_err(|_| Error::Option("the fitted model has more nodes than a model may".to_owned()))
    };
    let (mut roots, mut nodes) = (Vec::new(), Vec::new());
    for tree in &booster.trees {
        roots.push(narrow(nodes.len())?);
        let mut open = vec![(0, nodes.len())];
        nodes.push(UNSET);
        while let Some((from, to)) = open.pop() {
            let node = &tree.nodes[from];
            if node.is_leaf {
                nodes[to] = Node { value: node.weight_value, ..UNSET };
                continue;
            }
            let child = nodes.len();
            nodes[to] =
                Node { value: node.split_value as f32, feature: narrow(node.split_feature)?, child: narrow(child)? };
            nodes.extend([UNSET, UNSET]);
            open.extend([(node.left_child, child), (node.right_child, child + 1)]);
        }
    }
    Trees::new(booster.base_score as f32, roots, nodes).map_err(|error| Error::Option(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backtest::trace::Call;
    use crate::forecast::history::History;
    use crate::types::{FunctionName, Timestamp};

    /// Functions that are called every `period` minutes for a day.
    fn trace() -> Trace {
        let name = |n: i64| FunctionName::new(&format!("every-{}-{n}", period(n))).unwrap();
        let call = |n: i64, minute: i64| Call {
            at: Timestamp::from_millis(minute * 60_000),
            function: name(n),
            run: Duration::from_secs(if n % 4 == 0 { 90 } else { 1 }),
        };
        let calls = (0..24).flat_map(|n| (0..1_000).step_by(period(n) as usize).map(move |minute| call(n, minute + n)));
        let calls: Vec<Call> = calls.collect();
        Trace::from_calls("all", &calls).unwrap()
    }

    fn period(n: i64) -> i64 {
        5 + 3 * n
    }

    #[test]
    fn a_fitted_model_knows_what_comes_every_so_often() {
        let Fitted { model, further_is_shipped } = fit(&trace(), |_| true).unwrap();
        assert_eq!(further_is_shipped, None);
        let mut history = History::new(0);
        (0..8).for_each(|nth| history.saw(nth * 17, 1, 0.1));
        let mut out = Vec::new();
        let mut probability = |history: &History| {
            history.outlook(&model, 1.0, 0.0, 1, &mut out);
            out[0].1
        };
        history.pass(7 * 17 + 9);
        assert!(probability(&history) < 0.05);
        history.pass(8 * 17);
        assert!(probability(&history) > 0.8);
    }

    #[test]
    fn the_same_calls_give_the_same_file_and_few_calls_give_none() {
        let written = || fit(&trace(), |_| true).unwrap().model.write();
        assert_eq!(written(), written());
        let few = fit(&trace(), |function| function.name.as_str() == "every-5-0").unwrap_err().to_string();
        assert!(few.contains("too few"), "{few}");
    }

    #[test]
    fn calls_that_never_need_a_second_instance_leave_that_part_as_it_was_shipped() {
        let call = |n: i64, minute: i64| Call {
            at: Timestamp::from_millis(minute * 60_000),
            function: FunctionName::new(&format!("f-{n}")).unwrap(),
            run: Duration::ZERO,
        };
        let calls: Vec<Call> =
            (0..24).flat_map(|n| (0..1_000).step_by(30).map(move |minute| call(n, minute + n))).collect();
        let fitted = fit(&Trace::from_calls("all", &calls).unwrap(), |_| true).unwrap();
        assert!(fitted.further_is_shipped.is_some());
        assert!(fitted.model.further == Model::shipped().further);
        assert!(fitted.model.first != Model::shipped().first);
    }

    #[test]
    fn all_functions_of_an_owner_are_in_one_fold() {
        let trace = trace();
        let functions = &trace.sets[0].functions;
        let folds: std::collections::BTreeSet<u32> = functions.iter().map(|function| fold(function, 5)).collect();
        assert_eq!(folds.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut owned = functions[0].clone();
        owned.owner = Some("o".to_owned());
        let mut other = owned.clone();
        other.name = FunctionName::new("other").unwrap();
        assert_eq!(fold(&owned, 1_000), fold(&other, 1_000));
    }
}
