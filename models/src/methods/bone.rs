//! Bone (Kang 2024): every r×r block of W is changed by an affine map of itself, `ΔW_ij = W_ij·R_i + R_i`, with one R per row of
//! blocks, R `[⌈m/r⌉, r, r]`, zero at the start. PEFT has it as MiSS with `init_weights = "bat"`, for sizes that r divides.

use std::sync::Arc;

use deltaw_engine::ops::block_affine::BlockAffine;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::produced::Produced;
use super::{Adapted, Attached, Factor, Form, Method, Targets};

/// A block-affine update.
#[derive(Debug, Clone, PartialEq)]
pub struct Bone {
    /// Side r of the blocks.
    pub block: usize,
    /// Which linears.
    pub targets: Targets,
}

impl Bone {
    /// Blocks of `block` × `block` on every linear of the blocks.
    pub fn block(block: usize) -> Self {
        Bone {
            block,
            targets: Targets::default(),
        }
    }
}

impl Method for Bone {
    fn name(&self) -> String {
        format!("bone r={}", self.block)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        let r = self.block;
        if r == 0 {
            return Err(Error::Invalid(
                "bone: blocks of 0 rows; wanted at least 1".into(),
            ));
        }
        let sites = self.targets.of(store)?;
        let settings = json!({ "peft_type": "MISS", "r": r, "init_weights": "bat" });
        let mut adapted = Adapted::new(store, heads, settings);
        for site in sites {
            let shape = [site.out_features()?.div_ceil(r), r, r];
            let squares = store
                .at(site.path())
                .param("miss_block", &shape, Init::ZEROS)?;
            let factors = vec![Factor::new("miss_block", Form::Whole, &squares)];
            let delta = Produced {
                producer: BlockAffine { block: r },
                params: vec![squares],
            };
            adapted.add(&site, Arc::new(delta), factors)?;
        }
        Ok(Box::new(adapted))
    }
}
