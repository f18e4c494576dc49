//! The main loops of products and attention as NVIDIA's assembler makes them, in a committed table beside Triton's.

mod common;

use std::fmt::Write as _;

use common::committed::{PTXAS, compare, skip};
use deltaw_kernels::attention::{self, Kind};
use deltaw_kernels::gemm::{Loader, Tile, Type, Variant};
use deltaw_kernels::kernelized::{self, Values};
use deltaw_kernels::random_basis::{self, Bases};
use deltaw_kernels::template::Ptx;
use deltaw_kernels::{block_affine, registry, triangular};
use kernel_profile::{Block, Code, Disassembler, GPUS, Group, Loop};

const TARGETS: [u32; 3] = [80, 90, 120];

/// ptxas and nvdisasm, if they are those of the tables.
fn tools() -> Option<Disassembler> {
    match Disassembler::find() {
        Ok(tools) if tools.ptxas().version().unwrap() == PTXAS => Some(tools),
        Ok(_) => {
            skip(&format!("the tables of main loops are of ptxas {PTXAS}"));
            None
        }
        Err(missing) => {
            skip(&format!("no table of main loops: {missing}"));
            None
        }
    }
}

/// The code of a text with one kernel.
fn code(tools: &Disassembler, ptx: &str, sm: u32, threads: usize, shared: u32) -> Code {
    let threads = threads as u32;
    let mut code = tools.code(ptx, sm, Block { threads, shared }).unwrap();
    assert_eq!(code.len(), 1);
    code.remove(0)
}

fn product(tools: &Disassembler, variant: &Variant, sm: u32) -> Code {
    let ptx = variant.expand().unwrap();
    let shared = variant.tile.shared(variant.operands);
    code(tools, ptx.text(), sm, variant.tile.threads(), shared)
}

/// Registers and useful share of a main loop of Triton's, of the same tile, warps, stages and layout, without guards: see
/// `triton/generate.py`.
fn triton(name: &str, sm: u32) -> Option<(u32, f64)> {
    let wanted = format!("{name} sm_{sm} ");
    let mut lines = include_str!("triton/loops.txt").lines();
    let numbers = lines.find_map(|line| line.strip_prefix(&wanted))?;
    let numbers: Vec<u32> = (numbers.split(' '))
        .map(|n| n.parse().expect("a number"))
        .collect();
    Some((numbers[0], f64::from(numbers[2]) / f64::from(numbers[1])))
}

/// Whether a block of Triton's kernel leaves room for more of them.
fn fewer_fit(code: &Code, theirs: u32, threads: usize, shared: u32) -> bool {
    let mut gpus = GPUS.iter();
    let gpu = gpus.find(|gpu| gpu.capability == code.capability).unwrap();
    let blocks = |registers| gpu.occupancy(threads as u32, registers, shared).blocks;
    blocks(code.resources.registers) < blocks(theirs)
}

/// Registers, occupancy and what of Triton's is like it, as the table has them.
fn row(code: &Code, theirs: Option<(u32, f64)>) -> String {
    let occupancy = 100.0 * code.occupancy.expect("the threads are known").fraction;
    let own = format!("{:9} {occupancy:8.0} %", code.resources.registers);
    match theirs {
        Some((registers, share)) => format!("{own}   {share:13.3} {registers:9}"),
        None => format!("{own}   {:23}", ""),
    }
}

fn mix(of: &Loop) -> String {
    let groups = of
        .mix
        .iter()
        .map(|(group, count)| format!("{group:?} {count}"));
    groups.collect::<Vec<_>>().join(", ").to_lowercase()
}

/// The share of useful instructions is larger than Triton's; where there are more registers, as many blocks fit.
#[test]
fn products_are_as_committed_and_better_than_tritons() {
    let Some(tools) = tools() else { return };
    let mut table = format!(
        "# Main loops of products by ptxas {PTXAS}: instructions and useful ones (HMMA, FFMA) of a tile of K, their share, registers, warps of \
         those\n# that a multiprocessor holds; Triton 3.9's share and registers; what the instructions of a turn, one tile of K or more, are for\n\
         # kernel                          sm  instructions useful share registers occupancy   Triton: share registers   a turn\n"
    );
    let plain = |v: &&Variant| {
        v.loaders == [Loader::Chunks; 2]
            && v.extension.is_none()
            && !v.bias
            && v.operands != Type::F16
    };
    let mut worse = Vec::new();
    for variant in registry::gemm().iter().filter(plain) {
        let (name, Tile { m, n, k, .. }) = (variant.name(), variant.tile);
        let like = name
            .split('_')
            .skip(1)
            .take(2)
            .collect::<Vec<_>>()
            .join("_");
        for sm in TARGETS {
            let code = product(&tools, variant, sm);
            let found = code.main_loop().expect("a loop");
            // A barrier a tile.
            let turns = found.count(Group::Barrier) as f64;
            let (all, useful, share) = (found.instructions, found.useful(), found.share());
            let theirs = triton(&format!("{like}_{m}x{n}x{k}"), sm);
            writeln!(
                table,
                "{name:32} {sm:4} {:12.1} {:7.1} {share:5.3} {}   {}",
                all as f64 / turns,
                useful as f64 / turns,
                row(&code, theirs),
                mix(found)
            )
            .unwrap();
            let mut wrong = |what: String| worse.push(format!("{name} on sm_{sm}: {what}"));
            if let Some((registers, their_share)) = theirs {
                let (threads, shared) = (
                    variant.tile.threads(),
                    variant.tile.shared(variant.operands),
                );
                if share <= their_share {
                    wrong(format!(
                        "{share:.3} is useful, of Triton's {their_share:.3}"
                    ));
                }
                if fewer_fit(&code, registers, threads, shared) {
                    let own = code.resources.registers;
                    wrong(format!(
                        "{own} registers, Triton's has {registers}, and more blocks at a time"
                    ));
                }
                if sm == 80 && (variant.tile.share - share).abs() > 0.005 {
                    wrong(format!(
                        "{:?} claims another share than {share:.3}",
                        variant.tile
                    ));
                }
            }
        }
    }
    compare("data/sass.txt", &table);
    assert!(worse.is_empty(), "{worse:#?}");
}

/// The main loop of a product with a second pair is the plain one's to a twentieth, where both pairs come by whole chunks.
#[test]
fn second_pairs_leave_the_main_loop_as_it_is() {
    let Some(tools) = tools() else { return };
    let mut table = format!(
        "# What a second pair adds to the plain product by ptxas {PTXAS}: instructions of a tile of K of the plain main loop, of the same loop with a\n\
         # second pair, and of a tile of K of the second pair, whose loop comes first; registers of both\n\
         # kernel                                        sm   plain extended   second pair   registers: plain extended\n"
    );
    let extended = |v: &&Variant| v.extension == Some([Loader::Chunks; 2]);
    for variant in registry::gemm().iter().filter(extended) {
        let plain = Variant {
            extension: None,
            ..*variant
        };
        for sm in TARGETS {
            let codes = [&plain, variant].map(|v| product(&tools, v, sm));
            let tile = |l: &Loop| l.instructions as f64 / l.count(Group::Barrier) as f64;
            let [before, after] = codes.each_ref().map(|code| {
                let inner = code.loops.iter().filter(|l| l.innermost && l.useful() > 0);
                inner.collect::<Vec<_>>()
            });
            let ([main, ..], [second, extended, ..]) = (&before[..], &after[..]) else {
                panic!("{} on sm_{sm}: {codes:?}", variant.name())
            };
            assert!(
                tile(extended) <= 1.05 * tile(main),
                "{} on sm_{sm}: {} instructions of a tile, {} without the second pair",
                variant.name(),
                tile(extended),
                tile(main)
            );
            let [registers, with] = codes.each_ref().map(|code| code.resources.registers);
            writeln!(
                table,
                "{:46} {sm:4} {:7.1} {:8.1} {:13} {registers:18} {with:8}",
                variant.name(),
                tile(main),
                tile(extended),
                second.instructions
            )
            .unwrap();
        }
    }
    compare("data/second_pair.txt", &table);
}

/// Attention's loop over tiles, with the loops of products within it: instructions and useful ones of a tile of the scores.
fn over_tiles(code: &Code, variant: attention::Variant) -> (usize, usize) {
    let tile = variant.tile();
    let products: Vec<&Loop> = (code.loops.iter())
        .filter(|l| l.innermost && l.useful() > 0)
        .collect();
    let around = |l: &&Loop| products.iter().all(|inner| l.holds(inner));
    let outer = code
        .loops
        .iter()
        .filter(around)
        .min_by_key(|l| l.instructions);
    let outer = outer.expect("a loop over tiles");
    // 128 threads share each product's m n width multiply-adds.
    let turns = |l: &Loop| tile.m * tile.n * variant.width / 128 / l.useful();
    let extra = |count: &dyn Fn(&Loop) -> usize| -> usize {
        let inner = products.iter().map(|l| (turns(l) - 1) * count(l));
        inner.sum::<usize>() + count(outer)
    };
    (extra(&|l| l.instructions), extra(&Loop::useful))
}

/// Forward and gradients for heads that come and go by 16 bytes, without a bias. A larger share of forward's loop is useful than of
/// Triton's, and on the tensor cores, for heads 64 wide, as many blocks fit.
#[test]
fn attention_is_as_committed_and_better_than_tritons() {
    let Some(tools) = tools() else { return };
    let mut table = format!(
        "# Attention's loop over tiles of the scores by ptxas {PTXAS}: instructions and useful ones (FFMA, or HMMA on the tensor cores) of a tile that is\n\
         # seen whole, their share, registers, warps of those that a multiprocessor holds; share and registers of Triton 3.9's forward pass, of the same\n\
         # type, tile and warps\n\
         # kernel                          sm  instructions  useful share registers occupancy   Triton: share registers\n"
    );
    let mut worse = Vec::new();
    let wanted = |v: &attention::Variant| {
        v.chunks && !v.small && v.biased == (v.kind == Kind::Bias) && v.operands != Type::F16
    };
    for variant in attention::Variant::all().into_iter().filter(wanted) {
        let ptx = variant.expand().unwrap();
        for sm in TARGETS {
            let code = code(&tools, ptx.text(), sm, 128, variant.shared());
            let exact = variant.operands == Type::F32;
            let (instructions, useful) = if exact {
                over_tiles(&code, variant)
            } else {
                let main = code.main_loop().expect("a loop");
                (main.instructions, main.count(Group::Tensor))
            };
            let share = useful as f64 / instructions as f64;
            let like = variant.name();
            let theirs = triton(&like, sm).filter(|_| variant.kind == Kind::Forward);
            writeln!(
                table,
                "{like:32} {sm:4} {instructions:12} {useful:7} {share:5.3} {}",
                row(&code, theirs).trim_end()
            )
            .unwrap();
            let fewer = |registers| fewer_fit(&code, registers, 128, variant.shared());
            if theirs.is_some_and(|(registers, their_share)| {
                share <= their_share || (!exact && variant.width == 64 && fewer(registers))
            }) {
                let own = code.resources.registers;
                worse.push(format!("{like} on sm_{sm}: {share:.3}, {own}; {theirs:?}"));
            }
        }
    }
    compare("data/sass_attention.txt", &table);
    assert!(worse.is_empty(), "{worse:#?}");
}

/// A kernel that makes an update's rows or takes their gradients apart, and what a thread does for a tile.
struct Producer {
    name: String,
    ptx: Ptx,
    threads: usize,
    /// Whether a block goes from tile to tile; else it has one.
    walks: bool,
    /// Multiply-adds of each loop of products.
    products: usize,
    /// Operations that the formula takes.
    needed: usize,
}

/// κ of 16 numbers on 64 × 64 elements of f32, 4 × 4 a thread, of which half act.
fn kernelized() -> impl Iterator<Item = Producer> {
    const R: usize = 16;
    let wanted = |v: &kernelized::Variant| {
        let passes = matches!(v.kind, kernelized::Kind::Count | kernelized::Kind::Above);
        let element = matches!(v.kind, kernelized::Kind::Produce(e) if e.bytes() < 4);
        passes || v.values == Values::Soft && v.chunk == 4 && !element
    };
    kernelized::Variant::all().filter(wanted).map(|v| {
        let apart = ["rbf", "distance"].iter().any(|k| v.name().contains(k));
        let contracts = v.kind == kernelized::Kind::Contract;
        Producer {
            name: v.name(),
            ptx: v.expand().unwrap(),
            threads: v.threads(),
            walks: matches!(v.kind, kernelized::Kind::Count | kernelized::Kind::Above),
            products: 16 * R,
            // K, and both factors' gradients; of differences each a subtraction more.
            needed: 16 * R * if contracts { 3 } else { 1 } * if apart { 2 } else { 1 },
        }
    })
}

/// Blocks as large as their tile is wide.
fn block_affine() -> impl Iterator<Item = Producer> {
    let whole = block_affine::Variant::all().filter(|v| v.chunk == 4);
    whole.map(|v| Producer {
        name: v.name(),
        ptx: v.expand().unwrap(),
        threads: v.threads(),
        walks: true,
        products: 16 * v.side,
        needed: 16 * v.side,
    })
}

/// Four neighbours of a basis.
fn random_basis() -> impl Iterator<Item = Producer> {
    let whole = random_basis::Variant::all().filter(|v| v.chunk == 4 && v.bases == Bases::Uniform);
    whole.map(|v| Producer {
        name: v.name(),
        ptx: v.expand().unwrap(),
        threads: v.threads(),
        walks: matches!(
            v.kind,
            random_basis::Kind::Gamma | random_basis::Kind::Lambda
        ),
        products: 0,
        // Ten rounds of two wide products and two exclusive ors of three; of each number conversion, step and scale, and its use.
        needed: 10 * 4
            + 4 * match v.kind {
                random_basis::Kind::Fill => 3,
                random_basis::Kind::Scaled => 3 + 2,
                random_basis::Kind::Gamma | random_basis::Kind::Lambda => 3 + 3,
            },
    })
}

/// 32 × 32 elements, four a thread.
fn triangular() -> impl Iterator<Item = Producer> {
    triangular::Kind::ALL.into_iter().map(|kind| Producer {
        name: kind.name().into(),
        ptx: kind.expand().unwrap(),
        threads: kind.threads(),
        walks: false,
        products: 0,
        // Two loads, their sum and a store; a load and two stores.
        needed: 4 * match kind {
            triangular::Kind::Unpack => 4,
            triangular::Kind::Pack => 3,
        },
    })
}

impl Producer {
    /// Instructions of a tile: of the loop over tiles or the whole kernel, loops of products within it as often as they turn.
    fn instructions(&self, code: &Code) -> usize {
        let walk = code.loops.iter().max_by_key(|l| l.instructions);
        let walk = walk.filter(|_| self.walks);
        let own = |l: &&Loop| l.innermost && l.useful() > 0 && walk.is_none_or(|w| w.holds(l));
        // One turn of what the assembler has unrolled.
        let turns = |l: &Loop| self.products.div_ceil(l.useful()).max(1);
        let again = (code.loops.iter().filter(own)).map(|l| (turns(l) - 1) * l.instructions);
        walk.map_or(code.instructions, |w| w.instructions) + again.sum::<usize>()
    }
}

/// What a tile of each producer takes.
#[test]
fn producers_are_as_committed() {
    let Some(tools) = tools() else { return };
    let mut table = format!(
        "# Kernels that make an update's rows and take their gradients apart, by ptxas {PTXAS}: instructions of a thread for a tile (kernelized: 64 x 64 from 16\n\
         # numbers; block_affine: 4096 elements of blocks as wide as the tile; random_basis: four numbers; triangular: 32 x 32), through its loops, all\n\
         # branches once; those that the formula needs, their share, registers, warps of those that a multiprocessor holds\n\
         # kernel                                           sm  instructions  needed share registers occupancy\n"
    );
    let all = (kernelized().chain(block_affine()))
        .chain(random_basis())
        .chain(triangular());
    for producer in all {
        for sm in TARGETS {
            let code = code(&tools, producer.ptx.text(), sm, producer.threads, 0);
            let (instructions, needed) = (producer.instructions(&code), producer.needed);
            writeln!(
                table,
                "{:48} {sm:4} {instructions:13} {needed:7} {:5.3} {}",
                producer.name,
                needed as f64 / instructions as f64,
                row(&code, None).trim_end()
            )
            .unwrap();
        }
    }
    compare("data/sass_producers.txt", &table);
}
