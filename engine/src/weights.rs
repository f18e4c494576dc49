//! Weights as a value: a named tree of tensors that can be cloned (sharing storage), averaged, subtracted and streamed.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Tensors by name.
#[derive(Clone, Default, Debug)]
pub struct Weights(BTreeMap<String, Tensor>);

impl Weights {
    /// From names and tensors.
    pub fn new(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Weights(tensors.into_iter().collect())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensor of that name, which has to be there.
    ///
    /// # Errors
    /// It is not.
    pub fn expect(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| Error::Param {
            name: name.into(),
            detail: "is missing".into(),
        })
    }

    /// Puts a tensor under a name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each tensor with the other's of the same name.
    ///
    /// # Errors
    /// A name that the other lacks, or an error of `f`.
    pub fn zip(
        &self,
        other: &Weights,
        f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Weights> {
        let one = |(name, a): (&String, &Tensor)| {
            let b = other.get(name).ok_or_else(|| Error::Param {
                name: name.clone(),
                detail: "missing on one side".into(),
            })?;
            Ok((name.clone(), f(a, b)?))
        };
        self.0.iter().map(one).collect::<Result<_>>().map(Weights)
    }

    /// `self − other`: a task vector.
    pub fn sub(&self, other: &Weights) -> Result<Weights> {
        self.zip(other, Tensor::sub)
    }

    /// `self + factor·other`.
    pub fn add_scaled(&self, other: &Weights, factor: f64) -> Result<Weights> {
        self.zip(other, |a, b| a.add(&b.affine(factor, 0.0)?))
    }

    /// `Σ shareᵢ·weightsᵢ`: federated averaging when the shares sum to 1.
    ///
    /// # Errors
    /// Nothing given, or trees of different names.
    pub fn mix(parts: &[(f64, &Weights)]) -> Result<Weights> {
        let ((share, first), rest) = parts
            .split_first()
            .ok_or_else(|| Error::Invalid("mix: no weights".into()))?;
        let start = Weights(
            first
                .0
                .iter()
                .map(|(n, t)| Ok((n.clone(), t.affine(*share, 0.0)?)))
                .collect::<Result<_>>()?,
        );
        rest.iter()
            .try_fold(start, |sum, (share, w)| sum.add_scaled(w, *share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(a: f32, b: [f32; 2]) -> Weights {
        Weights::new([
            ("a".to_string(), Tensor::from([a])),
            ("b".to_string(), Tensor::from(b)),
        ])
    }

    fn values(w: &Weights) -> Vec<f32> {
        w.iter()
            .flat_map(|(_, t)| t.to_vec::<f32>().unwrap())
            .collect()
    }

    #[test]
    fn task_vectors_and_averages() {
        let (base, tuned) = (tree(1.0, [2.0, 3.0]), tree(2.0, [0.0, 5.0]));
        let task = tuned.sub(&base).unwrap();
        assert_eq!(values(&task), [1.0, -2.0, 2.0]);
        assert_eq!(
            values(&base.add_scaled(&task, 0.5).unwrap()),
            [1.5, 1.0, 4.0]
        );
        let mean = Weights::mix(&[(0.25, &base), (0.75, &tuned)]).unwrap();
        assert_eq!(values(&mean), [1.75, 0.5, 4.5]);
        assert!(Weights::mix(&[]).is_err());
        let other = Weights::new([("a".to_string(), Tensor::from([0.0]))]);
        let message = base.sub(&other).unwrap_err().to_string();
        assert_eq!(message, "parameter `b`: missing on one side");
    }
}
