//! The instructions that the driver takes, form by form: NVIDIA's assembler, where it is installed, says that they are
//! PTX, and the driver decodes each. What is out is refused by name and line.

mod common;
mod compilers;

use common::Device;
use compilers::{Result, tools};
use deltaw_driver::exec::Loaded;
use deltaw_driver::ptx::{Module, PtxError};

/// Forms, one a line: `<a|b>` stands for `a` and for `b`. `%h`, `%r`, `%l` hold 16, 32 and 64 bits, `%f` an f32, `%d` an
/// f64. A heading names the subject and the first architecture that has them.
const TAKEN: &str = include_str!("data/forms.txt");

/// Forms of one subject, expanded.
struct Group {
    subject: &'static str,
    target: &'static str,
    forms: Vec<String>,
}

fn groups() -> Vec<Group> {
    let sections = TAKEN.split("# ").skip(1);
    sections
        .map(|section| {
            let (heading, forms) = section.split_once('\n').expect("a heading");
            let (subject, target) = heading.split_once(" (").expect("an architecture");
            let lines = forms.lines().filter(|line| !line.is_empty());
            Group {
                subject,
                target: target.trim_end_matches(')'),
                forms: lines.flat_map(expand).collect(),
            }
        })
        .collect()
}

/// What is out, with words of its refusal.
const REFUSED: &[(&str, &str)] = &[
    ("wgmma.fence.sync.aligned;", "not supported"),
    ("mbarrier.init.shared.b64 [%r0], 1;", "not supported"),
    ("cp.async.bulk.commit_group;", "not supported"),
    ("barrier.cluster.arrive;", "clusters"),
    ("mapa.u64 %l0, %l1, 0;", "not supported"),
    (
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%r6, %r7, %r8, %r9}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r6, %r7, %r8, %r9};",
        "shape",
    ),
    (
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r2, %r3}, {%f0, %f1, %f2, %f3}, %r4, 0;",
        "not supported",
    ),
    (
        "wmma.load.a.sync.aligned.row.m32n8k16.global.f16 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%l1], %r8;",
        "m16n16k16",
    ),
    (
        "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%l1, {%f4, %f5}];",
        "not supported",
    ),
    ("vadd4.u32.u32.u32.add %r0, %r1, %r2, %r3;", "not supported"),
    ("atom.global.cas.b128 %q0, [%l1], %q1, %q2;", "128"),
    ("isspacep.const %p0, %l1;", "a state space"),
];

/// All texts that a form stands for.
fn expand(form: &str) -> Vec<String> {
    let Some((head, rest)) = form.split_once('<') else {
        return vec![form.into()];
    };
    let (choices, tail) = rest.split_once('>').expect("a closed choice");
    let tails = expand(tail);
    // Within a choice `||` is a bar of PTX.
    let choices = choices.replace("||", "|\u{1}");
    choices
        .split('|')
        .flat_map(|c| {
            tails
                .iter()
                .map(move |t| format!("{head}{c}{t}").replace('\u{1}', "|"))
        })
        .collect()
}

/// A module whose kernel holds an instruction a line.
fn module(target: &str, instructions: &[String]) -> String {
    format!(
        ".version 8.7
.target {target}
.address_size 64
.const .align 16 .b32 table[4] = {{1, 2, 3, 4}};
.global .align 16 .b32 words[4] = {{5, 6, 7, 8}};
.func (.param .b32 out) increment(.param .b32 in)
{{ .reg .b32 %x; ld.param.u32 %x, [in]; add.u32 %x, %x, 1; st.param.u32 [out], %x; ret; }}
.visible .entry k(.param .b64 x)
{{
.reg .pred %p<4>;
.reg .b16 %h<8>;
.reg .b32 %r<20>;
.reg .b64 %l<8>;
.reg .b128 %q<4>;
.reg .f32 %f<8>;
.reg .f64 %d<8>;
.shared .align 16 .b8 tile[1024];
.local .align 16 .b8 stack[64];

{}
ret;
}}
",
        instructions.join("\n")
    )
}

fn load(device: &Device, text: &str) -> std::result::Result<(), PtxError> {
    let module = Module::parse(text)?;
    Loaded::new(&module, &device.memory).map(|loaded| loaded.unload(&device.memory))
}

#[test]
fn every_form_is_decoded() {
    let device = Device::new(&common::module("", "ret;"));
    let (mut refused, mut taken) = (Vec::new(), 0);
    for group in groups() {
        for form in &group.forms {
            let text = module(group.target, std::slice::from_ref(form));
            match load(&device, &text) {
                Ok(()) => taken += 1,
                Err(e) => refused.push(format!("{}: {form}: {e}", group.subject)),
            }
        }
    }
    assert!(
        refused.is_empty(),
        "{} of {}:\n{}",
        refused.len(),
        refused.len() + taken,
        refused.join("\n")
    );
}

#[test]
fn every_form_is_ptx() -> Result {
    let Some(ptxas) = tools::tool(tools::PTXAS) else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let (source, cubin) = (
        directory.path().join("k.ptx"),
        directory.path().join("k.cubin"),
    );
    for group in groups() {
        std::fs::write(&source, module(group.target, &group.forms))?;
        let mut assemble = std::process::Command::new(&ptxas);
        assemble
            .arg(format!("-arch={}", group.target))
            .arg(&source)
            .arg("-o")
            .arg(&cubin);
        tools::run(&mut assemble).map_err(|e| format!("{}: {e}", group.subject))?;
    }
    Ok(())
}

#[test]
fn what_is_out_is_refused_by_name_and_line() {
    let device = Device::new(&common::module("", "ret;"));
    for &(form, why) in REFUSED {
        let text = module("sm_90a", &[form.into()]);
        let error = load(&device, &text).expect_err(form);
        let line = text
            .lines()
            .position(|line| line == form)
            .expect("its line");
        assert_eq!(error.line as usize, line + 1, "{form}: {error}");
        let name = form.split(' ').next().unwrap_or_default();
        assert!(
            error.text.contains(name.trim_end_matches(';')),
            "{form}: {error}"
        );
        assert!(error.message.contains(why), "{form}: {error}");
    }
}
