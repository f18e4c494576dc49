//! The variants that the tests walk.

use crate::KernelError;
use crate::gemm::{Activation, Loader, Major, Output, Tile, Type, Variant};
use crate::philox::Distribution;
use crate::template::Ptx;

/// A kernel of some family.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the text.
    pub name: String,
    /// Its text.
    pub ptx: Ptx,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// One entry for every choice that a text makes: for the product each type, tile and pair of layouts, every way into shared
/// memory, and for one tile of each type every epilogue. f16's texts are bf16's but for the type's name: one for each tile.
///
/// # Errors
/// A template does not expand.
pub fn entries() -> Result<Vec<Entry>, KernelError> {
    let philox = Distribution::ALL.into_iter().map(|distribution| {
        Ok(Entry {
            name: distribution.kernel(),
            ptx: distribution.expand()?,
            threads: distribution.threads(),
            shared: 0,
        })
    });
    gemm().iter().map(entry).chain(philox).collect()
}

fn entry(variant: &Variant) -> Result<Entry, KernelError> {
    Ok(Entry {
        name: variant.name(),
        ptx: variant.expand()?,
        threads: variant.tile.threads(),
        shared: variant.tile.shared(variant.operands),
    })
}

/// The products' variants.
pub fn gemm() -> Vec<Variant> {
    let mut all = Vec::new();
    for operands in [Type::Bf16, Type::F16, Type::Tf32, Type::F32] {
        let own = match operands {
            Type::Bf16 => Output::Bf16,
            Type::F16 => Output::F16,
            Type::Tf32 | Type::F32 => Output::F32,
        };
        let plain = |tile, majors| Variant {
            operands,
            output: own,
            tile,
            majors,
            loaders: [Loader::Chunks; 2],
            extension: None,
            bias: false,
            activation: Activation::Identity,
            residual: false,
        };
        if operands == Type::F16 {
            all.extend(Tile::of(operands).iter().map(|tile| Variant {
                bias: true,
                residual: true,
                ..plain(tile, [Major::K; 2])
            }));
            continue;
        }
        for tile in Tile::of(operands) {
            for a in [Major::K, Major::Other] {
                all.extend([Major::K, Major::Other].map(|b| plain(tile, [a, b])));
            }
        }
        let middle = &Tile::of(operands)[1];
        for major in [Major::K, Major::Other] {
            let extended = |tile, loader| Variant {
                loaders: [loader; 2],
                extension: Some([loader; 2]),
                ..plain(tile, [major; 2])
            };
            let largest = usize::from(operands == Type::Tf32);
            all.push(extended(&Tile::of(operands)[largest], Loader::Chunks));
            all.extend(Tile::of(operands)[1..].iter().map(|tile| Variant {
                output: Output::F32,
                ..extended(tile, Loader::Elements)
            }));
        }
        all.extend(Activation::ALL.map(|activation| Variant {
            activation,
            bias: true,
            residual: true,
            ..plain(middle, [Major::K, Major::K])
        }));
    }
    all
}
