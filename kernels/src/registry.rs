//! The variants that the tests walk.

use crate::gather::{self, Scatter};
use crate::gemm::{Activation, Fold, Loader, Major, Output, Tile, Type, Variant};
use crate::kernels::ROW_THREADS;
use crate::map::{self, Element, Function, Mode};
use crate::philox::Distribution;
use crate::template::Ptx;
use crate::{
    KernelError, attention, block_affine, cross_entropy, dropout, kernelized, norm, patches,
    random_basis, reduce, rotary, select, softmax, transpose, triangular, update,
};

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
    let mut all = gemm().iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let mut add = |name: String, threads, ptx: Result<Ptx, KernelError>| {
        let ptx = ptx?;
        all.push(Entry {
            name,
            ptx,
            threads,
            shared: 0,
        });
        Ok(())
    };
    for kernel in Fold::all() {
        add(kernel.name(), Fold::threads(), kernel.expand())?;
    }
    for kernel in Distribution::ALL {
        add(kernel.kernel(), kernel.threads(), kernel.expand())?;
    }
    for kernel in dropout::Variant::ALL {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in random_basis::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in maps() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in reduce::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in gathers() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    add(Scatter::NAME.into(), Scatter::threads(), Scatter::expand())?;
    for kernel in select::Kind::ALL {
        add(kernel.name().into(), kernel.threads(), kernel.expand())?;
    }
    for kernel in select::Step::ALL {
        add(kernel.name().into(), kernel.threads(), kernel.expand())?;
    }
    for kernel in block_affine::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in kernelized::Step::ALL {
        add(kernel.name().into(), kernel.threads(), kernel.expand())?;
    }
    for kernel in kernelized::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in triangular::Kind::ALL {
        add(kernel.name().into(), kernel.threads(), kernel.expand())?;
    }
    for kernel in update::Rule::ALL {
        add(kernel.name().into(), kernel.threads(), kernel.expand())?;
    }
    let threads = ROW_THREADS as usize;
    for kernel in patches::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in rotary::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in softmax::Kernel::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in transpose::Variant::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    for kernel in cross_entropy::Kind::ALL {
        add(kernel.name().into(), threads, kernel.expand())?;
    }
    for kernel in norm::Kernel::all() {
        add(kernel.name(), kernel.threads(), kernel.expand())?;
    }
    add(
        norm::Sums::NAME.into(),
        norm::Sums::threads(),
        norm::Sums::expand(),
    )?;
    for kernel in attention::Delta::ALL {
        add(kernel.name(), threads, kernel.expand())?;
    }
    for kernel in attention::Variant::all() {
        all.push(Entry {
            name: kernel.name(),
            ptx: kernel.expand()?,
            threads,
            shared: kernel.shared(),
        });
    }
    Ok(all)
}

/// Every function with contiguous operands; of three operands, every way to read one, with one axis and with three; every copy.
pub fn maps() -> Vec<map::Variant> {
    let variant = |function: Function, rank, modes: &[Mode], [from, to]: [Element; 2]| {
        let mode = |i: usize| modes[i % modes.len()];
        map::Variant {
            function,
            rank,
            out: (to, mode(0)),
            inputs: (1..=function.arity()).map(|i| (from, mode(i))).collect(),
        }
    };
    let f32s = [Element::F32; 2];
    let vectors = &[Mode::Vector][..];
    let mut all: Vec<_> = Function::all()
        .map(|function| variant(function, 1, vectors, f32s))
        .collect();
    let mixed = [Mode::Strided, Mode::Vector, Mode::Single, Mode::Strided];
    for rank in [1, 3] {
        all.push(variant(Function::Where, rank, &mixed, f32s));
        all.push(variant(Function::Where, rank, &mixed[1..], f32s));
    }
    for from in Element::ALL {
        for to in Element::ALL {
            let copies = [vectors, &[Mode::Strided]]
                .map(|modes| variant(Function::Copy, 1, modes, [from, to]));
            all.extend(copies.into_iter().filter(|_| from.converted(to).is_some()));
        }
    }
    // Copies of one size have one text.
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|v| seen.insert(v.name()));
    all
}

/// The types that tables have.
fn gathers() -> impl Iterator<Item = gather::Variant> {
    let f32 = |from| [from, Element::F32];
    let same = |element| [element, element];
    [
        f32(Element::F32),
        f32(Element::Bf16),
        f32(Element::F16),
        same(Element::U8),
        same(Element::Bf16),
        same(Element::I64),
    ]
    .into_iter()
    .flat_map(|elements| [1, 4].map(|chunk| gather::Variant { elements, chunk }))
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
            split: false,
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
        let largest = usize::from(operands == Type::Tf32);
        for major in [Major::K, Major::Other] {
            let extended = |tile, loader| Variant {
                loaders: [loader; 2],
                extension: Some([loader; 2]),
                ..plain(tile, [major; 2])
            };
            all.push(extended(&Tile::of(operands)[largest], Loader::Chunks));
            all.extend(Tile::of(operands)[1..].iter().map(|tile| Variant {
                output: Output::F32,
                ..extended(tile, Loader::Elements)
            }));
        }
        // The second pair the other way than the first, either side alone and both.
        for (major, second) in [
            (Major::K, [Loader::Chunks, Loader::Turned]),
            (Major::K, [Loader::Turned; 2]),
            (Major::Other, [Loader::Turned, Loader::Chunks]),
            (Major::Other, [Loader::Turned; 2]),
        ] {
            all.extend(Tile::of(operands)[largest..].iter().map(|tile| Variant {
                extension: Some(second),
                ..plain(tile, [major; 2])
            }));
        }
        for major in [Major::K, Major::Other] {
            let smallest = &Tile::of(operands)[2];
            all.extend([Loader::Chunks, Loader::Elements].map(|loader| Variant {
                output: Output::F32,
                loaders: [loader; 2],
                split: true,
                ..plain(smallest, [major; 2])
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
