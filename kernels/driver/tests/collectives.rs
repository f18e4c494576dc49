//! Instructions by which threads of a warp or a block meet, against definitions of their own: CUDA's of the shuffles,
//! sets of lanes for votes and matches, and plain order for barriers.

mod common;

use common::{Arg, Device, module};
use deltaw_driver::exec::{Fault, FaultKind};

/// Runs a body in which every thread has its lane in `%lane`, its thread in `%t` and two words of input in `%v` and
/// `%w`, and leaves two words in `%d` and `%e`; `%p` and `%q` are predicates, `%a` the shared address of `tile`.
fn run(body: &str, threads: u32, input: &[[u32; 2]]) -> Result<Vec<[u32; 2]>, Fault> {
    let text = module(
        ".param .u64 x, .param .u64 y",
        &format!(
            ".reg .pred %p, %q; .reg .b32 %t, %lane, %v, %w, %d, %e, %a; .reg .b64 %x, %y, %o;
            .shared .align 16 .b8 tile[4096];
            ld.param.u64 %x, [x]; ld.param.u64 %y, [y]; mov.u32 %t, %tid.x; mov.u32 %lane, %laneid;
            mul.wide.u32 %o, %t, 8; add.u64 %x, %x, %o; add.u64 %y, %y, %o; mov.u32 %a, tile;
            ld.global.v2.b32 {{%v, %w}}, [%x]; mov.b32 %d, 0; mov.b32 %e, 0;
            {body}
            st.global.v2.b32 [%y], {{%d, %e}}; ret;"
        ),
    );
    // stmatrix, elect and the like came with sm_90.
    let device = Device::new(&text.replace("sm_80", "sm_90"));
    let (x, y) = (device.upload(input), device.alloc::<[u32; 2]>(input.len()));
    device.launch("k", 1, threads, 0, &[Arg::U64(x), Arg::U64(y)])?;
    Ok(device.download(y, input.len()))
}

/// Words without a pattern.
fn words(count: u32) -> Vec<[u32; 2]> {
    let word = |i: u32| i.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b).rotate_left(13);
    (0..count).map(|i| [word(i), word(i + 1000)]).collect()
}

/// CUDA's definition: within groups of `width` lanes; a lane whose source lies outside keeps its own value, and its
/// predicate is false.
fn shuffled(how: &str, lane: usize, b: usize, width: usize) -> (usize, bool) {
    let (first, b) = (lane / width * width, b % 32);
    let source = match how {
        "up" => lane.checked_sub(b).filter(|&s| s >= first),
        "down" => Some(lane + b).filter(|&s| s < first + width),
        // A butterfly may reach groups before its own.
        "bfly" => Some(lane ^ b).filter(|&s| s < first + width),
        _ => Some(first + b % width),
    };
    (source.unwrap_or(lane), source.is_some())
}

#[test]
fn shuffles_within_groups() {
    let input = words(32);
    for how in ["up", "down", "bfly", "idx"] {
        for width in [1, 2, 4, 8, 16, 32] {
            for b in [0, 1, 2, 3, 5, 8, 13, 16, 24, 31, 32, 37, 63] {
                let c = (32 - width) << 8 | if how == "up" { 0 } else { 31 };
                let body = format!(
                    "shfl.sync.{how}.b32 %d|%p, %v, {b}, {c}, 0xffffffff; selp.u32 %e, 1, 0, %p;"
                );
                let got = run(&body, 32, &input).unwrap();
                for (lane, got) in got.into_iter().enumerate() {
                    let (source, inside) = shuffled(how, lane, b, width);
                    let want = [input[source][0], inside.into()];
                    assert_eq!(got, want, "{how} {b}, width {width}, lane {lane}");
                }
            }
        }
    }
}

/// The source lane and the bounds may differ from lane to lane.
#[test]
fn shuffles_by_register() {
    let mut input = words(32);
    input.iter_mut().for_each(|[_, w]| *w &= 63);
    let body = "shfl.sync.idx.b32 %d|%p, %v, %w, 31, 0xffffffff; selp.u32 %e, 1, 0, %p;";
    let got = run(body, 32, &input).unwrap();
    assert!((0..32).all(|l| got[l] == [input[input[l][1] as usize % 32][0], 1]));
    // A clamp below the last lane: lanes beyond it are out of range for .down.
    let body = "shfl.sync.down.b32 %d|%p, %v, 3, 20, 0xffffffff; selp.u32 %e, 1, 0, %p;";
    let got = run(body, 32, &input).unwrap();
    for lane in 0..32 {
        let inside = lane + 3 <= 20;
        assert_eq!(
            got[lane],
            [
                input[if inside { lane + 3 } else { lane }][0],
                inside.into()
            ]
        );
    }
}

/// The value of a lane that does not take part is undefined: it may be read, not used.
#[test]
fn shuffles_from_absent_lanes() {
    let body = |used: &str| {
        format!(
            "setp.lt.u32 %p, %lane, 16; @!%p bra DONE;
            shfl.sync.idx.b32 %d, %v, 20, 31, 0x0000ffff;
            {used}
            DONE:"
        )
    };
    assert!(run(&body("mov.u32 %d, 1;"), 32, &words(32)).is_ok());
    let fault = run(&body(""), 32, &words(32)).unwrap_err();
    assert_eq!(
        (fault.kind, fault.thread),
        (FaultKind::Uninitialised, [0, 0, 0]),
        "{fault}"
    );
}

/// Sets of lanes that meet: all, a half, every third, the last alone; and a warp of eight lanes.
const MEETINGS: [(u32, u32); 5] = [
    (32, u32::MAX),
    (32, 0x0000_ffff),
    (32, 0x4924_9249),
    (32, 0x8000_0000),
    (8, 0xff),
];

/// Lanes of the mask do `met`, the others leave.
fn meeting(mask: u32, met: &str) -> String {
    format!(
        "mov.b32 %d, 1; shl.b32 %d, %d, %lane; and.b32 %d, %d, {mask}; setp.eq.u32 %p, %d, 0; mov.b32 %d, 0;
        @%p bra APART;
        {met}
        APART:"
    )
}

/// Runs what the lanes of every meeting do, on inputs cut down to few values, and compares with what a lane should get
/// from the words of those that meet (as pairs of lane and words), and its own.
fn meet(
    met: &str,
    values: u32,
    want: impl Fn(usize, [u32; 2], &[(usize, [u32; 2])], u32) -> [u32; 2],
) {
    for (threads, mask) in MEETINGS {
        for shift in [0, 3, 9] {
            let input: Vec<[u32; 2]> = words(threads + shift)[shift as usize..]
                .iter()
                .map(|[v, w]| [v % values, w % values])
                .collect();
            let got = run(
                &meeting(mask, &met.replace("MASK", &mask.to_string())),
                threads,
                &input,
            )
            .unwrap();
            let here: Vec<_> = (0..threads as usize)
                .filter(|l| mask >> l & 1 != 0)
                .map(|l| (l, input[l]))
                .collect();
            for lane in 0..threads as usize {
                let here_too = mask >> lane & 1 != 0;
                let want = if here_too {
                    want(lane, input[lane], &here, mask)
                } else {
                    [0, 0]
                };
                assert_eq!(got[lane], want, "{met}, mask {mask:#x}, lane {lane}");
            }
        }
    }
}

#[test]
fn votes() {
    /// Whether a vote holds, of how many lanes say yes and how many there are.
    type Holds = fn(usize, usize) -> bool;
    let forms: [(&str, Holds); 3] = [
        ("all", |yes, of| yes == of),
        ("any", |yes, _| yes > 0),
        ("uni", |yes, of| yes == 0 || yes == of),
    ];
    for values in [1, 2, 5] {
        for (form, holds) in forms {
            let met = format!(
                "setp.eq.u32 %p, %v, 0; vote.sync.{form}.pred %q, %p, MASK; selp.u32 %d, 1, 0, %q;
                vote.sync.{form}.pred %q, !%p, MASK; selp.u32 %e, 1, 0, %q;"
            );
            meet(&met, values, |_, _, here, _| {
                let yes = here.iter().filter(|(_, [v, _])| *v == 0).count();
                [
                    holds(yes, here.len()).into(),
                    holds(here.len() - yes, here.len()).into(),
                ]
            });
        }
    }
    let met = "setp.eq.u32 %p, %v, 0; vote.sync.ballot.b32 %d, %p, MASK; activemask.b32 %e;";
    meet(met, 3, |_, _, here, mask| {
        let yes = here.iter().filter(|(_, [v, _])| *v == 0);
        [yes.map(|(l, _)| 1u32 << l).sum(), mask]
    });
}

#[test]
fn matches() {
    for values in [1, 2, 4, 1 << 30] {
        let same = |here: &[(usize, [u32; 2])], equal: &dyn Fn([u32; 2]) -> bool| -> u32 {
            here.iter()
                .filter(|(_, x)| equal(*x))
                .map(|(l, _)| 1u32 << l)
                .sum()
        };
        let met = "match.any.sync.b32 %d, %v, MASK; mov.b64 %o, {%v, %w}; match.any.sync.b64 %e, %o, MASK;";
        meet(met, values, |_, own, here, _| {
            [same(here, &|x| x[0] == own[0]), same(here, &|x| x == own)]
        });
        let met = "match.all.sync.b32 %d|%p, %v, MASK; selp.u32 %e, 1, 0, %p;";
        meet(met, values, |_, own, here, mask| {
            let all = same(here, &|x| x[0] == own[0]) == mask;
            [if all { mask } else { 0 }, all.into()]
        });
        let met =
            "mov.b64 %o, {%v, %w}; match.all.sync.b64 %d|%p, %o, MASK; selp.u32 %e, 1, 0, %p;";
        meet(met, values, |_, own, here, mask| {
            let all = same(here, &|x| x == own) == mask;
            [if all { mask } else { 0 }, all.into()]
        });
    }
}

#[test]
fn reductions_of_a_warp() {
    type Fold = fn(u32, u32) -> u32;
    let signed: [(&str, Fold); 3] = [
        ("add.s32", u32::wrapping_add),
        ("min.s32", |a, b| {
            a.cast_signed().min(b.cast_signed()).cast_unsigned()
        }),
        ("max.s32", |a, b| {
            a.cast_signed().max(b.cast_signed()).cast_unsigned()
        }),
    ];
    let unsigned: [(&str, Fold); 6] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (form, fold) in signed.into_iter().chain(unsigned) {
        let met = format!("redux.sync.{form} %d, %v, MASK; redux.sync.{form} %e, %w, MASK;");
        for values in [7, u32::MAX] {
            meet(&met, values, |_, _, here, _| {
                [0, 1].map(|i| here.iter().map(|(_, x)| x[i]).reduce(fold).unwrap())
            });
        }
    }
}

#[test]
fn one_lane_is_elected() {
    let met = "elect.sync %d|%p, MASK; selp.u32 %e, 1, 0, %p;";
    // Which one is not specified; here it is the first, and all agree.
    meet(met, 1, |lane, _, here, _| {
        [here[0].0 as u32, (lane == here[0].0).into()]
    });
}

#[test]
fn both_sides_of_a_branch_see_themselves() {
    let body = "rem.u32 %d, %lane, 3; setp.eq.u32 %p, %d, 0;
        @%p bra THIRD;
        activemask.b32 %d; bra.uni JOIN;
        THIRD: activemask.b32 %d;
        JOIN: activemask.b32 %e;
        @%p add.u32 %e, %e, 0; @%p activemask.b32 %w; @%p xor.b32 %e, %e, %w;";
    let got = run(body, 32, &words(32)).unwrap();
    let thirds = 0x4924_9249u32;
    for (lane, [own, joined]) in got.into_iter().enumerate() {
        let third = thirds >> lane & 1 != 0;
        assert_eq!(own, if third { thirds } else { !thirds }, "lane {lane}");
        // A guard counts as a branch.
        assert_eq!(
            joined,
            if third { !thirds } else { u32::MAX },
            "lane {lane}"
        );
    }
}

#[test]
fn barriers_that_reduce() {
    let input = words(96);
    let odd = |threads: std::ops::Range<usize>| {
        input[threads].iter().filter(|[v, _]| v & 1 != 0).count() as u32
    };
    let body = "and.b32 %d, %v, 1; setp.ne.u32 %p, %d, 0;
        bar.red.popc.u32 %d, 0, %p; bar.red.popc.u32 %e, 0, !%p;";
    for [d, e] in run(body, 96, &input).unwrap() {
        assert_eq!((d, e), (odd(0..96), 96 - odd(0..96)));
    }
    // Two warps at barrier 1, the third at barrier 2.
    let body = "and.b32 %d, %v, 1; setp.ne.u32 %p, %d, 0; setp.lt.u32 %q, %t, 64;
        @!%q bra THIRD;
        barrier.cta.red.popc.aligned.u32 %d, 1, 64, %p; bra.uni JOIN;
        THIRD: bar.red.popc.u32 %d, 2, 32, %p;
        JOIN: bar.sync 0;";
    for (t, [d, _]) in run(body, 96, &input).unwrap().into_iter().enumerate() {
        assert_eq!(d, if t < 64 { odd(0..64) } else { odd(64..96) });
    }
    for (first, last) in [(0, 0), (0, 1), (5, 96), (0, 96)] {
        let body = format!(
            "setp.ge.u32 %p, %t, {first}; setp.lt.and.u32 %p, %t, {last}, %p;
            barrier.red.and.pred %q, 3, %p; selp.u32 %d, 1, 0, %q;
            barrier.red.or.pred %q, 3, %p; selp.u32 %e, 1, 0, %q;"
        );
        let want: [u32; 2] = [(last - first == 96).into(), (last > first).into()];
        assert!(
            run(&body, 96, &input)
                .unwrap()
                .into_iter()
                .all(|x| x == want)
        );
    }
}

/// Warps 0 and 1 produce, 2 and 3 consume, by a pair of named barriers: nobody waits longer than needed, and there is
/// no race. Without the consumers' wait there is one, and without the producers' arrival the block never ends.
#[test]
fn producers_and_consumers() {
    let body = "setp.lt.u32 %p, %t, 64; and.b32 %w, %t, 63; shl.b32 %w, %w, 2; add.u32 %a, %a, %w; mov.b32 %w, 0;
        @!%p bra CONSUME;
        PRODUCE: bar.sync 1, 128;
        add.u32 %d, %v, %w; st.shared.b32 [%a], %d;
        bar.arrive 2, 128;
        add.u32 %w, %w, 1; setp.lt.u32 %q, %w, 5; @%q bra PRODUCE;
        bra.uni DONE;
        CONSUME: bar.arrive 1, 128;
        bar.sync 2, 128;
        ld.shared.b32 %e, [%a]; mad.lo.u32 %d, %d, 3, %e;
        add.u32 %w, %w, 1; setp.lt.u32 %q, %w, 5; @%q bra CONSUME;
        DONE:";
    let input = words(128);
    let got = run(body, 128, &input).unwrap();
    for i in 0..64 {
        let v = input[i][0];
        let sum = (0..5).fold(0u32, |d, w| {
            d.wrapping_mul(3).wrapping_add(v.wrapping_add(w))
        });
        assert_eq!((got[i][0], got[64 + i][0]), (v.wrapping_add(4), sum));
    }
    let line = |what: &str| {
        let text = module("", body);
        // The body stands five lines further down in `run`'s text than in this one.
        text[..text.find(what).unwrap()].matches('\n').count() as u32 + 6
    };
    let fault = run(&body.replace("bar.sync 2, 128;", ""), 128, &input).unwrap_err();
    // Whichever of the two comes second is at fault; the text has the other one's line.
    let [store, load] = ["st.shared.b32", "ld.shared.b32"].map(line);
    let other = if fault.line == store { load } else { store };
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    assert!(
        [store, load].contains(&fault.line) && fault.text.contains(&format!("line {other},")),
        "{fault}"
    );
    let fault = run(&body.replace("bar.arrive 2, 128;", ""), 128, &input).unwrap_err();
    assert_eq!(fault.kind, FaultKind::BarrierDivergence, "{fault}");
    assert!(fault.text.contains("never completed"), "{fault}");
}

#[test]
fn switches() {
    let arms: String = (0..6)
        .map(|i| {
            format!(
                "L{i}: mad.lo.u32 %d, %v, {}, {i}; bra.uni JOIN;\n",
                2 * i + 1
            )
        })
        .collect();
    let body = format!(
        "rem.u32 %e, %w, 6;
        TABLE: .branchtargets L0, L1, L2, L3, L4, L5;
        brx.idx %e, TABLE;
        {arms} JOIN: activemask.b32 %e;"
    );
    let input = words(64);
    for ([d, e], [v, w]) in run(&body, 64, &input).unwrap().into_iter().zip(input) {
        assert_eq!(d, v.wrapping_mul(2 * (w % 6) + 1).wrapping_add(w % 6));
        assert_eq!(e, u32::MAX, "the lanes meet again");
    }
}
