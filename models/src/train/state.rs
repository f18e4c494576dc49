//! Where a training run stands, as one safetensors file: parameters, both moments of the optimiser, the place in the data
//! and the curve so far.

use deltaw_engine::checkpoint;
use deltaw_engine::optim::AdamW;
use deltaw_engine::prelude::*;
use serde::{Deserialize, Serialize};

use super::Curve;
use crate::data::order::{Cursor, Order};
use crate::experiment::{Error, Result};

const PLACE: &str = "place";

#[derive(Serialize, Deserialize)]
struct Position {
    step: u64,
    cursor: Cursor,
    curve: Curve,
}

/// The state after `step` steps.
pub(super) fn keep(
    step: u64,
    curve: &Curve,
    params: &[Param],
    optimiser: &AdamW,
    order: &Order,
) -> Result<Vec<u8>> {
    let position = Position {
        step,
        cursor: order.cursor(),
        curve: curve.clone(),
    };
    let json = serde_json::to_vec(&position).map_err(Error::other)?;
    let mut weights = optimiser.state(params)?;
    weights.insert(
        PLACE,
        Tensor::from_slice(&json, &[json.len()], &Device::cpu())?,
    );
    for param in params {
        weights.insert(format!("value.{}", param.name()), param.value());
    }
    Ok(checkpoint::to_bytes(&weights)?)
}

/// Puts everything back where it was; returns the steps taken and the curve.
pub(super) fn restore(
    bytes: &[u8],
    params: &[Param],
    optimiser: &mut AdamW,
    order: &mut Order,
) -> Result<(u64, Curve)> {
    let weights = checkpoint::from_file_bytes("the checkpoint of this stage", bytes)?;
    let missing =
        |name: &str| Error::Invalid(format!("the checkpoint of this stage has no `{name}`"));
    let place = weights.get(PLACE).ok_or_else(|| missing(PLACE))?;
    let position: Position =
        serde_json::from_slice(&place.to_vec::<u8>()?).map_err(Error::other)?;
    for param in params {
        let name = format!("value.{}", param.name());
        param.set(weights.get(&name).ok_or_else(|| missing(&name))?.clone())?;
    }
    optimiser.load_state(params, &weights)?;
    order.seek(position.cursor)?;
    Ok((position.step, position.curve))
}
