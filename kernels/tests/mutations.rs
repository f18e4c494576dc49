//! Kernels with one thing broken must fail the comparison or the driver's checks: a test that no fault can fail is none.

mod common;

use std::cell::Cell;

use common::Gpu;
use common::case::{Case, Layout};
use deltaw_kernels::gemm::{Activation, Type};
use deltaw_kernels::template::Ptx;

/// What is done to every expanded line that the template's line containing `target` gave rise to.
struct Mutation {
    what: &'static str,
    file: &'static str,
    target: &'static str,
    change: Change,
}

enum Change {
    Drop,
    /// Replaces a part of the line.
    Edit(&'static str, &'static str),
}

use Change::{Drop, Edit};

const fn mutation(
    what: &'static str,
    file: &'static str,
    target: &'static str,
    change: Change,
) -> Mutation {
    Mutation {
        what,
        file,
        target,
        change,
    }
}

const COPY: &str = include_str!("../ptx/gemm_copy.ptx");
const MAIN: &str = include_str!("../ptx/gemm.ptx");
const MMA: &str = include_str!("../ptx/gemm_mma.ptx");
const FMA: &str = include_str!("../ptx/gemm_fma.ptx");
const EPILOGUE: &str = include_str!("../ptx/gemm_epilogue.ptx");

fn source(file: &str) -> &'static str {
    match file {
        "gemm.ptx" => MAIN,
        "gemm_copy.ptx" => COPY,
        "gemm_mma.ptx" => MMA,
        "gemm_fma.ptx" => FMA,
        "gemm_epilogue.ptx" => EPILOGUE,
        _ => panic!("{file} is no template"),
    }
}

impl Mutation {
    /// The template's lines that have the target.
    fn places(&self) -> Vec<String> {
        let numbered = source(self.file).lines().enumerate();
        let places = numbered.filter(|(_, line)| line.contains(self.target));
        places
            .map(|(i, _)| format!("{}:{}", self.file, i + 1))
            .collect()
    }

    /// The text mutated where it comes from `place`, unless nothing does.
    fn apply(&self, ptx: &Ptx, place: &str) -> Option<String> {
        let mut changed = false;
        let lines = ptx.lines().map(|(line, origin)| {
            let mutated = match self.change {
                _ if origin != place => return line.to_owned(),
                Drop => String::new(),
                Edit(from, to) => line.replace(from, to),
            };
            changed |= mutated != line;
            mutated
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        changed.then_some(text)
    }

    /// Whether the mutation of this place is noticed on a case; none if the case's kernel has no such line.
    fn caught(&self, place: &str, case: &Case) -> Option<bool> {
        let gpu = Gpu::new(80);
        // A mutation may hang: the driver stops it.
        gpu.virtual_device()
            .set_instruction_limit(4_000_000)
            .expect("a limit");
        let applied = Cell::new(false);
        let outcome = case.run(
            &gpu,
            Some(&|ptx: &Ptx| {
                let mutated = self.apply(ptx, place);
                applied.set(mutated.is_some());
                mutated.unwrap_or_else(|| ptx.text().to_owned())
            }),
        );
        let found = outcome.and_then(|outcome| outcome.check()).err();
        let refused = found
            .as_ref()
            .is_some_and(|words| words.contains("loading its module"));
        assert!(!refused, "{place} without {}: {found:?}", self.what);
        applied.get().then_some(found.is_some())
    }
}

/// Ragged in all sizes, over more tiles of k than stages, with everything around the product; R is Y itself, so that an element
/// written twice is wrong.
fn ragged(operands: Type, a_transposed: bool, b_transposed: bool) -> Case {
    let layout = |transposed| Layout {
        transposed,
        padding: 8,
        shift: 0,
    };
    let mut case = Case::plain(operands, 2, [72, 104, 325]);
    (case.a, case.b, case.batch) = (layout(a_transposed), layout(b_transposed), 2);
    case.y.padding = 3;
    (case.alpha, case.bias, case.residual) = (1.5, true, Some((0.5, true)));
    (case.activation, case.extension) = (Activation::Silu, Some((40, -1.25)));
    case
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for operands in [Type::Bf16, Type::F32, Type::Tf32] {
        all.push(ragged(operands, false, false));
        all.push(ragged(operands, true, true));
    }
    for transposed in [false, true] {
        // Element by element.
        let mut case = ragged(Type::Bf16, transposed, !transposed);
        (case.a.padding, case.b.padding) = (3, 1);
        all.push(case);
    }
    // The second pair the other way than the first, and no whole number of its tiles.
    for (operands, transposed) in [
        (Type::Bf16, [false, true]),
        (Type::Bf16, [true, false]),
        (Type::F32, [false, true]),
        (Type::Tf32, [true, false]),
    ] {
        let mut case = ragged(operands, transposed[0], transposed[1]);
        case.turned = [true; 2];
        case.size[0] = 70;
        all.push(case);
    }
    // Whole chunks of Y beside ragged ones.
    let mut chunks = ragged(Type::Bf16, false, true);
    (chunks.size[1], chunks.y.padding) = (100, 4);
    all.push(chunks);
    // In three parts, the last one short.
    for (operands, transposed) in [(Type::Bf16, false), (Type::F32, true)] {
        let mut case = ragged(operands, transposed, transposed);
        (case.extension, case.split) = (None, Some(128));
        all.push(case);
    }
    // More than one group of tile rows, and no k at all.
    all.push(Case::plain(Type::Bf16, 2, [9 * 64 + 1, 72, 40]));
    all.push(Case::plain(Type::Bf16, 2, [64, 64, 0]));
    all
}

/// Every line that a mutation concerns must be missed by one of the cases.
fn all_are_caught(mutations: &[Mutation]) {
    let cases = cases();
    let mut survivors = Vec::new();
    for mutation in mutations {
        let places = mutation.places();
        if places.is_empty() {
            survivors.push(format!(
                "{}: no line of {} has `{}`",
                mutation.what, mutation.file, mutation.target
            ));
        }
        for place in places {
            let outcomes = cases
                .iter()
                .filter_map(|case| mutation.caught(&place, case));
            if !outcomes.into_iter().any(|caught| caught) {
                survivors.push(format!("{place} without {}", mutation.what));
            }
        }
    }
    assert!(survivors.is_empty(), "{survivors:#?}");
}

#[test]
fn the_cases_pass_as_they_are() {
    for case in cases() {
        let gpu = Gpu::new(80);
        case.run(&gpu, None)
            .and_then(|outcome| outcome.check())
            .unwrap_or_else(|e| panic!("{case:?}: {e}"));
    }
}

#[test]
fn barriers_and_waits_are_needed() {
    all_are_caught(&[
        mutation("a barrier", "gemm.ptx", "bar.sync 0;", Drop),
        mutation("a barrier", "gemm_mma.ptx", "bar.sync 0;", Drop),
        mutation("a barrier", "gemm_fma.ptx", "bar.sync 0;", Drop),
        mutation("a wait", "gemm.ptx", "cp.async.wait_group", Drop),
        mutation("a wait", "gemm_mma.ptx", "cp.async.wait_group", Drop),
        mutation("a wait", "gemm_fma.ptx", "cp.async.wait_group", Drop),
        mutation("a commit", "gemm.ptx", "cp.async.commit_group", Drop),
        mutation("a commit", "gemm_mma.ptx", "cp.async.commit_group", Drop),
        mutation("a commit", "gemm_fma.ptx", "cp.async.commit_group", Drop),
    ]);
}

#[test]
fn guards_are_needed() {
    all_are_caught(&[
        mutation(
            "the bound of a row",
            "gemm_copy.ptx",
            "min.u32 %t0, %t0, %t1;",
            Drop,
        ),
        mutation(
            "the lower bound of a chunk",
            "gemm_copy.ptx",
            "max.s32 %t0, %t0, 0;",
            Drop,
        ),
        mutation(
            "the upper bound of a chunk",
            "gemm_copy.ptx",
            "min.s32 {{ x }}_size",
            Edit("min.s32", "max.s32"),
        ),
        mutation(
            "the bound of k",
            "gemm_copy.ptx",
            "setp.gt.s32 %p, %t0",
            Edit("setp.gt", "setp.ge"),
        ),
        mutation(
            "the end of K",
            "gemm_copy.ptx",
            "@%more cp.async",
            Edit("@%more", ""),
        ),
        mutation("the end of K", "gemm_copy.ptx", "@!%more bra", Drop),
        mutation(
            "the bound of a turned row",
            "gemm_copy.ptx",
            "min.u32 %t0, %row, %t1;",
            Edit("min.u32 %t0, %row, %t1", "mov.u32 %t0, %row"),
        ),
        mutation(
            "the bound of a turned k",
            "gemm_copy.ptx",
            "selp.b32 {{ x }}_size, {{ x }}_size, 0, %p;",
            Drop,
        ),
        mutation(
            "the bound of a turned chunk",
            "gemm_copy.ptx",
            "sub.s32 {{ x }}_size",
            Edit("sub.s32", "add.s32"),
        ),
        mutation(
            "the guard of an element",
            "gemm_copy.ptx",
            "setp.gt.s32 %has",
            Edit("setp.gt", "setp.ge"),
        ),
        mutation(
            "an empty sum's tile",
            "gemm.ptx",
            "max.u32 %tiles, %tiles, 1;",
            Drop,
        ),
        mutation(
            "the last group's size",
            "gemm.ptx",
            "min.u32 %t1, %t1, 8;",
            Drop,
        ),
        mutation(
            "the bound of a stored row",
            "gemm_epilogue.ptx",
            "setp.ge.u32 %p, %row",
            Edit("setp.ge", "setp.gt"),
        ),
        mutation(
            "the tile's last row",
            "gemm_epilogue.ptx",
            "min.u32 %e_m",
            Drop,
        ),
        mutation(
            "the bound of a stored column",
            "gemm_epilogue.ptx",
            "setp.lt.u32 %in",
            Edit("setp.lt", "setp.le"),
        ),
        mutation(
            "the condition of a whole chunk",
            "gemm_epilogue.ptx",
            "setp.ne.and.u32 %by_chunk",
            Edit(".and", ".or"),
        ),
    ]);
}

#[test]
fn index_terms_are_needed() {
    all_are_caught(&[
        mutation(
            "the batch",
            "gemm_copy.ptx",
            "mad.lo.u64 %base, %u0, %u1, %base;",
            Drop,
        ),
        mutation(
            "the chunk",
            "gemm_copy.ptx",
            "mad.wide.u32 %base, %chunk, 16, %base;",
            Drop,
        ),
        mutation(
            "the permutation",
            "gemm_copy.ptx",
            "xor.b32 %t7, %t7, {{ chunk }};",
            Drop,
        ),
        mutation(
            "the next rows",
            "gemm_copy.ptx",
            "add.s64 {{ x }}_from, {{ x }}_from, {{ x }}_walk;",
            Drop,
        ),
        mutation(
            "the next rows",
            "gemm_copy.ptx",
            "add.s64 {{ x }}_at0, {{ x }}_at0, {{ x }}_walk;",
            Drop,
        ),
        mutation(
            "the next element of a turned chunk",
            "gemm_copy.ptx",
            "add.s64 {{ from }}, {{ from }}, {{ x }}_walk;",
            Drop,
        ),
        mutation(
            "the next turned chunk",
            "gemm_copy.ptx",
            "add.u32 %chunk, %chunk, {{ o.chunk_step }};",
            Drop,
        ),
        mutation(
            "the turned chunk's place",
            "gemm_copy.ptx",
            "mad.wide.u32 {{ x }}_from, {{ x }}_ld",
            Edit(", %u0", ", 0"),
        ),
        mutation(
            "the turned tile's k",
            "gemm_copy.ptx",
            "mad.wide.u32 %u0, %k0,",
            Edit("%k0", "0"),
        ),
        mutation(
            "the turned row",
            "gemm_copy.ptx",
            "and.b32 %row, %thread, {{ o.rows - 1 }};",
            Drop,
        ),
        mutation(
            "the turned chunk",
            "gemm_copy.ptx",
            "shr.u32 %chunk, %thread, {{ o.rows_log2 }};",
            Drop,
        ),
        mutation(
            "the next tiles",
            "gemm_copy.ptx",
            "{{ tiles * o.row_bytes }};",
            Drop,
        ),
        mutation(
            "the tile's k",
            "gemm_copy.ptx",
            "add.s64 %u1, {{ x }}_at{{ i }}, %u0;",
            Edit(", %u0;", ", 0;"),
        ),
        mutation(
            "the tile's k",
            "gemm.ptx",
            "mul.lo.u32 %k0, %k0, {{ tile_k }};",
            Drop,
        ),
        mutation(
            "the part",
            "gemm.ptx",
            "mov.u32 %part, %ctaid.y;",
            Edit("%ctaid.y", "0"),
        ),
        mutation(
            "the part's start",
            "gemm.ptx",
            "mul.lo.u32 %part, %part, %t0;",
            Drop,
        ),
        mutation(
            "the last part's end",
            "gemm.ptx",
            "sub.u32 %k, %k, %part;",
            Drop,
        ),
        mutation("the part's end", "gemm.ptx", "min.u32 %k, %k, %t0;", Drop),
        mutation(
            "the part's k",
            "gemm_copy.ptx",
            "mad.wide.u32 %base, %part,",
            Drop,
        ),
        mutation(
            "the part's sums",
            "gemm_epilogue.ptx",
            "mad.lo.u32 %t0, %t1, %t2, %t0;",
            Drop,
        ),
        mutation("the second pair's k", "gemm.ptx", "mov.u32 %k0, 0;", Drop),
        mutation(
            "the second pair's next k",
            "gemm.ptx",
            "add.u32 %k0, %k0, {{ tile_k }};",
            Edit("%k0, %k0", "%k0, %k2"),
        ),
        mutation(
            "the second pair's scale",
            "gemm.ptx",
            "mul.rn.f32 %acc",
            Drop,
        ),
        mutation("the zeros", "gemm.ptx", "mov.f32 %acc", Drop),
        mutation(
            "the tile's row",
            "gemm.ptx",
            "mul.lo.u32 %m0, %m0, {{ tile_m }};",
            Drop,
        ),
        mutation(
            "the warp's row",
            "gemm.ptx",
            "mul.lo.u32 %wm, %wm, {{ warp_m }};",
            Drop,
        ),
        mutation(
            "the warp's column",
            "gemm.ptx",
            "mul.lo.u32 %wn, %wn, {{ warp_n }};",
            Drop,
        ),
        mutation(
            "a fragment's step",
            "gemm_mma.ptx",
            "xor.b32 %t1, %t0, {{ 32 * i }};",
            Edit("xor.b32", "or.b32"),
        ),
        mutation(
            "the transposition",
            "gemm_mma.ptx",
            ".trans.",
            Edit(".trans", ""),
        ),
        mutation(
            "the half of a row",
            "gemm_mma.ptx",
            "shr.u32 %chunk",
            Edit("shr.u32 %chunk", "shl.b32 %chunk"),
        ),
        mutation(
            "a fragment's step",
            "gemm_fma.ptx",
            "xor.b32 %t1, %t0, {{ 16 * c }};",
            Edit("xor.b32", "or.b32"),
        ),
        mutation(
            "the stage's turn",
            "gemm_fma.ptx",
            "selp.b32 %move",
            Edit("selp.b32 %move", "selp.b32 %used"),
        ),
        mutation(
            "the permutation of Y",
            "gemm_epilogue.ptx",
            "xor.b32 %t0, %t0, %chunk;",
            Drop,
        ),
        mutation(
            "the permutation of Y",
            "gemm_mma.ptx",
            "xor.b32 %t1, %t1, %t3;",
            Drop,
        ),
        mutation(
            "the bias",
            "gemm_epilogue.ptx",
            "fma.rn.f32 %v{{ e }}, %v{{ e }}, %alpha",
            Drop,
        ),
        mutation(
            "the residual",
            "gemm_epilogue.ptx",
            "fma.rn.f32 %v{{ e }}, %beta",
            Drop,
        ),
        mutation(
            "the column",
            "gemm_epilogue.ptx",
            "mad.wide.u32 %u0, %col",
            Drop,
        ),
        mutation(
            "the batch of Y",
            "gemm_epilogue.ptx",
            "mad.lo.u64 %u0, %u1, %u3, %u0;",
            Drop,
        ),
        mutation(
            "the next row",
            "gemm_epilogue.ptx",
            "add.s64 %y_at, %y_at, %y_walk;",
            Drop,
        ),
        mutation(
            "the next row",
            "gemm_epilogue.ptx",
            "add.s64 %r_at, %r_at, %r_walk;",
            Drop,
        ),
    ]);
}
