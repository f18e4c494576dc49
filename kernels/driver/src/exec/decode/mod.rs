//! From parsed instructions to operations.
//!
//! A program is a kernel and every device function that it calls, by name or by address, each once: registers and
//! frames are static, so recursion is refused. Constants and special registers get slots like registers, so that an operation's operands
//! are slots and nothing else. A modifier that an instruction does not know is an error, never ignored.

mod arith;
mod bits;
mod call;
mod collective;
mod compare;
mod control;
mod convert;
mod convert_integer;
mod convert_packed;
mod float;
mod float_ops;
mod function;
mod integer;
mod matrix;
mod memory;
mod operands;
mod update;

use std::collections::HashMap;

use super::lanes::{Isa, Map};
use super::op::{Cond, Kind, Op, Part, Pc, Pred, SINK, Slot};
use super::program::{Info, Program, Special};
use crate::counters::Class;
use crate::ptx::{Function, Instruction, Module, PtxError};

/// Registers of a thread beyond this many 32-bit words are refused.
const MAX_SLOTS: u32 = 1 << 17;
/// Local memory of a thread (the hardware's limit).
const MAX_FRAME: u64 = 512 << 10;

pub use call::function_address;

type Result<T> = std::result::Result<T, PtxError>;

/// Decodes a kernel.
pub fn program(
    module: &Module,
    kernel: &Function,
    globals: &HashMap<String, (u64, u64)>,
    isa: Isa,
) -> Result<Program> {
    let mut d = Decoder {
        module,
        globals,
        isa,
        current: Current::default(),
        program: Program {
            name: kernel.name.clone(),
            ops: Vec::new(),
            info: Vec::new(),
            entry: 0,
            slots: 0,
            preds: u32::from(SINK) + 1,
            frame_words: 0,
            constants: Vec::new(),
            specials: Vec::new(),
            shared_bytes: 0,
            shared_granule: 4,
        },
        frame: 0,
        constants: HashMap::new(),
        specials: HashMap::new(),
        shared: HashMap::new(),
        functions: Vec::new(),
        temporaries: Vec::new(),
    };
    d.kernel(kernel)?;
    Ok(d.program)
}

/// Where a virtual register lives.
#[derive(Clone, Copy)]
enum Place {
    Slot(Slot),
    Pred(Pred),
}

struct Decoder<'a> {
    module: &'a Module,
    globals: &'a HashMap<String, (u64, u64)>,
    isa: Isa,
    current: Current,
    program: Program,
    /// Bytes of frame so far.
    frame: u64,
    /// Slots by bits and width.
    constants: HashMap<(u64, bool), Slot>,
    specials: HashMap<Special, Slot>,
    /// Addresses of module-scope shared variables in use.
    shared: HashMap<String, u64>,
    functions: Vec<function::Layout<'a>>,
    /// The register that a chain of steps wrote last, which nothing else reads.
    temporaries: Vec<Slot>,
}

/// The instruction being decoded, as emitted operations inherit it.
struct Current {
    guard: Cond,
    line: u32,
    name: String,
    class: Class,
}

impl Default for Current {
    fn default() -> Current {
        Current {
            guard: Cond::ALWAYS,
            line: 0,
            name: String::new(),
            class: Class::Control,
        }
    }
}

/// An instruction and the modifiers that nobody has claimed yet.
struct Ins<'a> {
    i: &'a Instruction,
    /// Index of its function's layout.
    function: usize,
    /// The instruction where its lanes meet again, if it is a branch.
    join: usize,
    left: Vec<&'a str>,
}

impl<'a> Decoder<'a> {
    fn emit(&mut self, kind: Kind) -> Pc {
        let info = Info {
            line: self.current.line,
            name: self.current.name.clone(),
            class: self.current.class,
            flops: 0,
        };
        self.program.ops.push(Op {
            guard: self.current.guard,
            kind,
        });
        self.program.info.push(info);
        self.program.ops.len() as Pc - 1
    }

    fn map(&mut self, f: Map, d: Slot, wide: bool, sources: &[Slot]) {
        let none = self.constant(0, true);
        let s = std::array::from_fn(|i| sources.get(i).copied().unwrap_or(none));
        let part = Part::Whole;
        self.emit(Kind::Map {
            f,
            d,
            s,
            wide,
            part,
        });
    }

    /// Says what the last map does to the halves of a register.
    fn part(&mut self, says: Part) {
        if let Some(Kind::Map { part, .. }) = self.program.ops.last_mut().map(|op| &mut op.kind) {
            *part = says;
        }
    }

    /// Says how many floating-point operations a lane of the last operation makes.
    fn flops(&mut self, n: u32) {
        if let Some(info) = self.program.info.last_mut() {
            info.flops = n;
        }
    }

    fn new_slot(&mut self, wide: bool) -> Slot {
        self.program.slots += 1 + u32::from(wide);
        self.program.slots - 1 - u32::from(wide)
    }

    fn new_pred(&mut self, ins: &Ins<'_>) -> Result<Pred> {
        let pred = Pred::try_from(self.program.preds)
            .map_err(|_| ins.error("more than 65535 predicates"))?;
        self.program.preds += 1;
        Ok(pred)
    }

    fn constant(&mut self, bits: u64, wide: bool) -> Slot {
        if let Some(&slot) = self.constants.get(&(bits, wide)) {
            return slot;
        }
        let slot = self.new_slot(wide);
        self.constants.insert((bits, wide), slot);
        self.program.constants.push((slot, bits, wide));
        slot
    }

    fn special(&mut self, special: Special) -> Slot {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.new_slot(false);
        self.specials.insert(special, slot);
        self.program.specials.push((special, slot));
        slot
    }

    fn instruction(&mut self, ins: &mut Ins<'a>) -> Result<()> {
        let opcode = ins.i.opcode.as_str();
        self.current.class = match opcode {
            "add" | "sub" | "mul" | "fma" | "mad" | "neg" | "abs" | "min" | "max" | "div"
            | "rem" | "copysign" => match ins.peek_ty() {
                Some(crate::ptx::Type::F64) => Class::Double,
                Some(t) if t.is_float() => Class::Float,
                _ => Class::Integer,
            },
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => Class::Special,
            "cvt" => Class::Convert,
            "mov" | "selp" | "slct" | "cvta" | "isspacep" => Class::Move,
            "setp" | "set" | "testp" => Class::Compare,
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" => {
                Class::Control
            }
            "ld" | "ldu" | "st" | "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                match ins.space() {
                    crate::ptx::Space::Shared => Class::Shared,
                    crate::ptx::Space::Global | crate::ptx::Space::Generic => Class::Global,
                    _ => Class::OtherMemory,
                }
            }
            "ldmatrix" | "stmatrix" => Class::Shared,
            "atom" | "red" => Class::Atomic,
            "cp" => Class::Async,
            "mma" | "wmma" => Class::Matrix,
            "shfl" | "vote" | "match" | "activemask" | "redux" | "elect" => Class::Warp,
            "bar" | "barrier" | "membar" | "fence" => Class::Barrier,
            _ => Class::Integer,
        };
        match opcode {
            "add" | "sub" | "mul" | "mad" | "fma" | "neg" | "abs" | "min" | "max" | "div"
            | "rem" => self.arith(ins),
            "addc" | "subc" | "madc" => self.carry(ins),
            "mul24" | "mad24" | "sad" | "dp4a" | "dp2a" | "and" | "or" | "xor" | "not" | "cnot"
            | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi" | "bfind" | "brev"
            | "clz" | "popc" | "bmsk" | "szext" | "fns" => self.integer(ins),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" => {
                self.float_function(ins)
            }
            "cvt" => self.convert(ins),
            "mov" | "selp" | "slct" | "setp" | "set" | "testp" => self.choose(ins),
            "cvta" | "isspacep" | "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "prefetch"
            | "prefetchu" | "discard" | "applypriority" | "createpolicy" => self.memory(ins),
            "ldmatrix" | "stmatrix" | "mma" | "wmma" | "movmatrix" => self.matrix(ins),
            "shfl" | "vote" | "match" | "activemask" | "redux" | "elect" | "bar" | "barrier"
            | "membar" | "fence" => self.collective(ins),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep"
            | "pmevent" | "griddepcontrol" => self.control(ins),
            _ => Err(ins.error("this instruction is not supported")),
        }?;
        match ins.left.first() {
            Some(m) => Err(ins.error(format!("modifier .{m} is not supported here"))),
            None => Ok(()),
        }
    }
}

impl<'a> Ins<'a> {
    fn error(&self, message: impl Into<String>) -> PtxError {
        PtxError {
            line: self.i.line,
            column: self.i.column,
            text: self.i.name(),
            message: message.into(),
        }
    }

    /// Claims a modifier if it is there.
    fn flag(&mut self, name: &str) -> bool {
        match self.left.iter().position(|m| *m == name) {
            Some(at) => {
                self.left.remove(at);
                true
            }
            None => false,
        }
    }

    /// Claims the first modifier that is among the choices.
    fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let (at, value) = self.left.iter().enumerate().find_map(|(at, m)| {
            choices
                .iter()
                .find(|(name, _)| name == m)
                .map(|&(_, value)| (at, value))
        })?;
        self.left.remove(at);
        Some(value)
    }

    /// Claims every modifier that a condition holds for: what changes caching or scope, but no value.
    fn ignore(&mut self, accept: impl Fn(&str) -> bool) {
        self.left.retain(|m| !accept(m));
    }

    fn expect_operands(&self, n: usize) -> Result<()> {
        let got = self.i.operands.len();
        if got == n {
            Ok(())
        } else {
            Err(self.error(format!("{got} operands, {n} wanted")))
        }
    }
}
