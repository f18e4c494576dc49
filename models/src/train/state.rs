//! Where a training run stands, as one safetensors file: parameters with their average, both moments of the optimiser, what the
//! method keeps of its own, the place in the data and the curve so far.

use deltaw_engine::checkpoint;
use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use super::Curve;
use super::average::Average;
use crate::data::order::{Cursor, Order};
use crate::experiment::{Error, Result};
use crate::methods::Attached;

const PLACE: &str = "place";
/// Before the names of the method's own.
const METHOD: &str = "method.";

#[derive(Serialize, Deserialize)]
struct Position {
    step: u64,
    cursor: Cursor,
    curve: Curve,
}

/// All that a run goes on from.
pub(super) struct State<'a> {
    pub params: Vec<Param>,
    pub optimiser: AdamW,
    pub order: Order,
    pub average: Option<Average>,
    pub method: Option<&'a mut (dyn Attached + 'a)>,
}

impl State<'_> {
    /// As it is after `step` steps.
    pub fn keep(&self, step: u64, curve: &Curve) -> Result<Vec<u8>> {
        let position = Position {
            step,
            cursor: self.order.cursor(),
            curve: curve.clone(),
        };
        let json = serde_json::to_vec(&position).map_err(Error::other)?;
        let mut weights = self.optimiser.state(&self.params)?;
        weights.insert(
            PLACE,
            Tensor::from_slice(&json, &[json.len()], &Device::cpu())?,
        );
        for param in &self.params {
            weights.insert(format!("value.{}", param.name()), param.value());
        }
        if let Some(average) = &self.average {
            for (param, value) in self.params.iter().zip(average.values()) {
                weights.insert(format!("average.{}", param.name()), value.clone());
            }
        }
        if let Some(method) = &self.method {
            for (name, tensor) in method.state()?.iter() {
                weights.insert(format!("{METHOD}{name}"), tensor.clone());
            }
        }
        Ok(checkpoint::to_bytes(&weights)?)
    }

    /// Puts everything back where it was; returns the steps taken and the curve.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(u64, Curve)> {
        let weights = checkpoint::from_file_bytes("the checkpoint of this stage", bytes)?;
        let of = |kind: &str, name: &str| {
            let name = format!("{kind}{name}");
            weights.get(&name).cloned().ok_or_else(|| {
                Error::Invalid(format!("the checkpoint of this stage has no `{name}`"))
            })
        };
        let place = of("", PLACE)?.to_vec::<u8>()?;
        let position: Position = serde_json::from_slice(&place).map_err(Error::other)?;
        if let Some(method) = &mut self.method {
            let own = weights.iter().filter_map(|(name, tensor)| {
                let name = name.strip_prefix(METHOD)?;
                Some((name.to_string(), tensor.clone()))
            });
            method.resume(&Weights::new(own))?;
        }
        // Files are read to where the parameters are.
        let own = |kind: &str, param: &Param| -> Result<Tensor> {
            Ok(of(kind, param.name())?.to_device(param.value().device())?)
        };
        for param in &self.params {
            param.set(own("value.", param)?)?;
        }
        if let Some(average) = &mut self.average {
            let values = self.params.iter().map(|p| own("average.", p));
            average.restore(values.collect::<Result<_>>()?);
        }
        self.optimiser.load_state(&self.params, &weights)?;
        self.order.seek(position.cursor)?;
        Ok((position.step, position.curve))
    }
}
