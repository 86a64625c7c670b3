//! The fleet's model: two boosted sets of regression trees that read a record's numbers, and their file format.
//!
//! A set's score is the sum of one leaf of each tree and a base; the probability is its logistic function (J. H. Friedman,
//! "Greedy Function Approximation: A Gradient Boosting Machine", 2001). Reading a file checks that every path through it
//! ends, so scoring needs no checks of its own.
//!
//! Must not: fit anything.

use std::fmt;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::features::{FIRST, FURTHER};

/// What a model's file begins with.
const MAGIC: [u8; 8] = *b"fwmodel1";
/// Nodes of one set at most (inclusive): 8 bytes each.
const NODES_MAX: usize = 65_535;
const TREES_MAX: usize = 4_096;
const NODE_BYTES: usize = 8;

/// Why a model's file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// It is something else.
    #[error("this is no model file; make one by `forewarm fit`")]
    NoModel,
    /// It was fitted to other numbers.
    #[error(
        "the model was fitted by another version of forewarm, whose records tell other numbers; fit it anew by `forewarm fit`"
    )]
    OtherFeatures,
    /// It ends too early, or is longer than it says.
    #[error("the model file is {actual} bytes long and should have {expected}; copy it anew")]
    Length {
        /// What its head says.
        expected: usize,
        /// What it is.
        actual: usize,
    },
    /// It has too many trees or nodes, or a tree that does not end.
    #[error("the model file is damaged: {0}")]
    Damaged(&'static str),
}

/// One node of a tree: a leaf, or a question whose answers are two neighbouring nodes behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// A leaf's value; a question's threshold: below it is the first child, otherwise the second.
    pub value: f32,
    /// Which number is asked about; [`Node::LEAF`] for a leaf.
    pub feature: u16,
    /// The first child's place within its set; the second one follows it. Above the node's own place.
    pub child: u16,
}

impl Node {
    /// The feature of a leaf.
    pub const LEAF: u16 = u16::MAX;
}

/// One set of trees over `N` numbers.
#[derive(Clone, PartialEq)]
pub struct Trees<const N: usize> {
    base: f32,
    roots: Vec<u16>,
    nodes: Vec<Node>,
}

impl<const N: usize> Trees<N> {
    /// A set from its parts.
    ///
    /// # Errors
    /// Where a path through a tree would not end, asks about what there is not, or there are too many nodes.
    pub fn new(base: f32, roots: Vec<u16>, nodes: Vec<Node>) -> Result<Self, ModelError> {
        if roots.len() > TREES_MAX || nodes.len() > NODES_MAX {
            return Err(ModelError::Damaged("it has too many trees or nodes"));
        }
        if roots.iter().any(|&root| usize::from(root) >= nodes.len()) {
            return Err(ModelError::Damaged("a tree begins behind the end"));
        }
        for (place, node) in nodes.iter().enumerate().filter(|(_, node)| node.feature != Node::LEAF) {
            if usize::from(node.feature) >= N {
                return Err(ModelError::Damaged("a tree asks about a number that there is not"));
            }
            // Every step leads forward, so every path ends.
            if usize::from(node.child) <= place || usize::from(node.child) + 1 >= nodes.len() {
                return Err(ModelError::Damaged("a tree leads nowhere"));
            }
        }
        if !base.is_finite() || nodes.iter().any(|node| !node.value.is_finite()) {
            return Err(ModelError::Damaged("a value is no number"));
        }
        Ok(Self { base, roots, nodes })
    }

    /// The probability that these numbers tell, 0.0 to 1.0.
    pub fn probability(&self, features: &[f32; N]) -> f32 {
        let mut score = self.base;
        for &root in &self.roots {
            let mut node = self.nodes[usize::from(root)];
            while node.feature != Node::LEAF {
                let second = features[usize::from(node.feature)] >= node.value;
                node = self.nodes[usize::from(node.child) + usize::from(second)];
            }
            score += node.value;
        }
        1.0 / (1.0 + (-score).exp())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend(self.roots.iter().flat_map(|root| root.to_le_bytes()));
        for node in &self.nodes {
            out.extend_from_slice(&node.value.to_le_bytes());
            out.extend_from_slice(&node.feature.to_le_bytes());
            out.extend_from_slice(&node.child.to_le_bytes());
        }
    }

    fn bytes(roots: usize, nodes: usize) -> usize {
        4 + 2 * roots + NODE_BYTES * nodes
    }

    /// Reads a set that fills `bytes`.
    fn read(bytes: &[u8], roots: usize) -> Result<Self, ModelError> {
        let two = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let four = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (head, nodes) = bytes.split_at(4 + 2 * roots);
        let roots = head[4..].chunks_exact(2).map(two).collect();
        let nodes = nodes.chunks_exact(NODE_BYTES);
        let nodes = nodes.map(|node| Node { value: four(node), feature: two(&node[4..]), child: two(&node[6..]) });
        Self::new(four(head), roots, nodes.collect())
    }
}

/// See the head of this file. Cheap to clone.
#[derive(Clone)]
pub struct Model {
    /// The probability of the first instance.
    pub first: Arc<Trees<{ FIRST.len() }>>,
    /// The probability of each further one.
    pub further: Arc<Trees<{ FURTHER.len() }>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes =
            [self.first.roots.len(), self.first.nodes.len(), self.further.roots.len(), self.further.nodes.len()];
        f.debug_struct("Model").field("sizes", &sizes).finish()
    }
}

impl Model {
    /// The model that comes with the program. It was fitted by `forewarm fit` to the public half of Microsoft's Azure
    /// Functions trace of 2019 (CC-BY 4.0; Shahrad et al., "Serverless in the Wild", USENIX ATC 2020).
    #[expect(clippy::expect_used, reason = "part of the build; a test reads it")]
    pub fn shipped() -> Self {
        static SHIPPED: OnceLock<Model> = OnceLock::new();
        SHIPPED
            .get_or_init(|| Self::read(include_bytes!("azure-2019.model")).expect("the shipped model is one"))
            .clone()
    }

    /// The model's file.
    pub fn write(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&features_digest());
        let (first, further) = (&self.first, &self.further);
        for size in [first.roots.len(), first.nodes.len(), further.roots.len(), further.nodes.len()] {
            // Both bounds are below 2^16.
            out.extend_from_slice(&(size as u16).to_le_bytes());
        }
        first.write(&mut out);
        further.write(&mut out);
        out
    }

    /// Reads a model's file.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn read(bytes: &[u8]) -> Result<Self, ModelError> {
        const HEAD: usize = 8 + 8 + 4 * 2;
        let (head, body) = bytes.split_at_checked(HEAD).ok_or(ModelError::NoModel)?;
        if head[..8] != MAGIC {
            return Err(ModelError::NoModel);
        }
        if head[8..16] != features_digest() {
            return Err(ModelError::OtherFeatures);
        }
        let size = |nth: usize| usize::from(u16::from_le_bytes([head[16 + 2 * nth], head[17 + 2 * nth]]));
        let first = Trees::<{ FIRST.len() }>::bytes(size(0), size(1));
        let further = Trees::<{ FURTHER.len() }>::bytes(size(2), size(3));
        if body.len() != first + further {
            return Err(ModelError::Length { expected: HEAD + first + further, actual: bytes.len() });
        }
        let (first, further) = body.split_at(first);
        Ok(Self { first: Arc::new(Trees::read(first, size(0))?), further: Arc::new(Trees::read(further, size(2))?) })
    }
}

/// What tells one set of numbers from another.
fn features_digest() -> [u8; 8] {
    let mut digest = Sha256::new();
    for name in FIRST.iter().chain(&FURTHER) {
        digest.update(name.as_bytes());
        digest.update([0]);
    }
    let digest: [u8; 32] = digest.finalize().into();
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stump<const N: usize>(feature: u16, threshold: f32) -> Trees<N> {
        let leaf = |value| Node { value, feature: Node::LEAF, child: 0 };
        let nodes = vec![Node { value: threshold, feature, child: 1 }, leaf(-2.0), leaf(2.0)];
        Trees::new(0.0, vec![0, 0], nodes).unwrap()
    }

    fn model() -> Model {
        Model { first: Arc::new(stump(1, 3.0)), further: Arc::new(stump(0, 1.0)) }
    }

    #[test]
    fn a_score_is_the_sum_of_leaves() {
        let mut features = [0.0; FIRST.len()];
        assert_eq!(model().first.probability(&features), 1.0 / (1.0 + 4.0_f32.exp()));
        features[1] = 3.0;
        assert_eq!(model().first.probability(&features), 1.0 / (1.0 + (-4.0_f32).exp()));
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_anything_else_is_refused() {
        let bytes = model().write();
        let read = Model::read(&bytes).unwrap();
        assert!(read.first == model().first && read.further == model().further);
        assert_eq!(Model::read(b"").unwrap_err(), ModelError::NoModel);
        assert_eq!(Model::read(&[7; 400]).unwrap_err(), ModelError::NoModel);
        let short = Model::read(&bytes[..bytes.len() - 1]).unwrap_err();
        assert_eq!(short, ModelError::Length { expected: bytes.len(), actual: bytes.len() - 1 });
        let mut other = bytes.clone();
        other[9] ^= 1;
        assert_eq!(Model::read(&other).unwrap_err(), ModelError::OtherFeatures);
        let node = |value, feature, child| Node { value, feature, child };
        let refused = |root, nodes| Trees::<4>::new(0.0, vec![root], nodes).is_err();
        assert!(refused(0, vec![node(0.0, 1, 0), node(0.0, 1, 0)]), "leads back");
        assert!(refused(0, vec![node(0.0, 1, 1), node(0.0, Node::LEAF, 0)]), "no second child");
        assert!(
            refused(0, vec![node(0.0, 4, 1), node(0.0, Node::LEAF, 0), node(0.0, Node::LEAF, 0)]),
            "no such feature"
        );
        assert!(refused(1, vec![node(0.0, Node::LEAF, 0)]), "no root");
        assert!(refused(0, vec![node(f32::NAN, Node::LEAF, 0)]), "no number");
    }

    #[test]
    fn the_shipped_model_is_one() {
        let shipped = Model::shipped();
        assert!(shipped.first.roots.len() > 10 && shipped.further.roots.len() > 10);
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..2_000, value in any::<u8>(), cut in 0_usize..60) {
            let mut bytes = model().write();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(model) = Model::read(&bytes) {
                prop_assert!(model.first.probability(&[0.5; FIRST.len()]) <= 1.0);
            }
        }
    }
}
