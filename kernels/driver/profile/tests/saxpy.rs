//! A profile of saxpy, whose counters can be told by hand.

use kernel_profile::{
    Block, Description, Disassembler, GPUS, Gpu, Group, Profile, ProfileError, Ptxas,
};

const SAXPY: &str = include_str!("../../tests/ptx/saxpy.ptx");

fn description(blocks: u32, count: u32) -> Description {
    let json = format!(
        r#"{{ "kernel": "saxpy", "grid": [{blocks}], "block": [64],
             "args": [{{ "u32": {count} }}, {{ "f32": 2.0 }},
                      {{ "buffer": {{ "type": "f32", "count": 100, "fill": "uniform" }} }},
                      {{ "buffer": {{ "type": "f32", "count": 100, "fill": "iota" }} }}] }}"#
    );
    Description::parse(&json).expect("a description")
}

#[test]
fn counters_are_those_of_the_text() {
    let profile = Profile::measure(SAXPY, &description(2, 100), None, &[]).unwrap();
    let c = &profile.launch.counters;
    // 4 warps of 7 instructions up to the branch; the last has 4 lanes left, and each goes on for 13 more.
    assert_eq!(c.warp_instructions, 4 * 7 + 4 * 13);
    assert_eq!(c.global.requests, 4 * 3);
    assert_eq!(c.global.bytes, 100 * 3 * 4);
    // 100 floats from a 256-byte boundary on: 12.5 sectors, three times over.
    assert_eq!((c.global.units, c.global.ideal_units), (39, 39));
    assert_eq!(c.float_flops, 200);
    assert_eq!((c.matrix_flops, c.barriers, c.shared.requests), (0, 0, 0));
    let text = profile.to_string();
    assert!(
        text.contains("100.0 % coalesced") && text.contains("no ptxas"),
        "{text}"
    );
    // Of what there was not there is no quality to tell.
    assert!(
        !text.contains("bank conflicts") && !text.contains("a request"),
        "{text}"
    );
    assert!(
        serde_json::to_string(&profile)
            .unwrap()
            .contains("\"float_flops\":200")
    );
}

#[test]
fn faults_and_wrong_descriptions_are_explained() {
    let error = Profile::measure(SAXPY, &description(2, 101), None, &[]).unwrap_err();
    assert!(
        matches!(&error, ProfileError::Fault(text) if text.contains("line 35")),
        "{error}"
    );
    let mut wrong = description(2, 100);
    wrong.args.pop();
    let error = Profile::measure(SAXPY, &wrong, None, &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("[4, 4, 8] bytes, and the parameters of `saxpy` have [4, 4, 8, 8]"),
        "{error}"
    );
    let error = Description::parse(r#"{ "kernel": "k", "grid": [1], "blocks": [1], "args": [] }"#)
        .unwrap_err();
    assert!(error.to_string().contains("blocks"), "{error}");
}

#[test]
fn ptxas_adds_registers_and_occupancy_where_it_is_installed() {
    let Some(ptxas) = Ptxas::find() else {
        eprintln!("no ptxas in PATH or PTXAS: nothing to compare");
        return;
    };
    let gpus: Vec<&Gpu> = GPUS.iter().collect();
    let profile = Profile::measure(SAXPY, &description(2, 100), Some(&ptxas), &gpus).unwrap();
    assert_eq!(profile.predicted.len(), 4);
    for predicted in &profile.predicted {
        assert!(
            (8..=16).contains(&predicted.resources.registers),
            "{predicted:?}"
        );
        assert_eq!(predicted.resources.spill_stores, 0);
        assert_eq!(predicted.occupancy.fraction, 1.0, "{predicted:?}");
        assert_eq!(predicted.bound.peak, "memory");
    }
}

#[test]
fn the_machine_code_is_taken_apart_where_nvdisasm_is_installed() {
    let tools = match Disassembler::find() {
        Ok(tools) => tools,
        Err(missing) => {
            eprintln!("{missing}: nothing to take apart");
            return;
        }
    };
    // A sum of products, one a turn: 8 + 8 bytes in, an FMA, two pointers and a counter on.
    const DOT: &str = "
        .version 8.0
        .target sm_80
        .address_size 64
        .visible .entry dot(.param .u64 x, .param .u64 y, .param .u32 n)
        .reqntid 64
        {
            .reg .pred %p;
            .reg .b32 %n;
            .reg .b64 %x, %y;
            .reg .f32 %a, %b, %sum;
            ld.param.u64 %x, [x];
            ld.param.u64 %y, [y];
            ld.param.u32 %n, [n];
            mov.f32 %sum, 0f00000000;
        LOOP:
            .pragma \"nounroll\";
            ld.global.f32 %a, [%x];
            ld.global.f32 %b, [%y];
            fma.rn.f32 %sum, %a, %b, %sum;
            add.u64 %x, %x, 4;
            add.u64 %y, %y, 4;
            sub.u32 %n, %n, 1;
            setp.ne.u32 %p, %n, 0;
            @%p bra LOOP;
            st.global.f32 [%x], %sum;
            ret;
        }";
    for sm in [80, 90, 120] {
        let code = tools.code(DOT, sm, Block::default()).unwrap();
        let [dot] = &code[..] else { panic!("{code:?}") };
        assert_eq!(
            (dot.kernel.as_str(), dot.resources.spill_stores),
            ("dot", 0)
        );
        assert_eq!(dot.occupancy.unwrap().fraction, 1.0);
        let [turn] = &dot.loops[..] else {
            panic!("{dot:?}")
        };
        assert_eq!(
            (turn.useful(), turn.count(Group::Global), turn.innermost),
            (1, 2, true)
        );
        assert_eq!(dot.main_loop(), Some(turn));
        assert!(turn.instructions < dot.instructions, "{dot:?}");
        assert!(dot.to_string().contains("1 fma"), "{dot}");
    }
}
