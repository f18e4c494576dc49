//! PTX text: lexer, parser, and the module they build.
//!
//! The parser knows the grammar and the scopes, not the instructions: an instruction is an opcode, its modifiers and
//! its operands, with every register, variable and label resolved. [`crate::exec`] types them.

mod body;
mod lexer;
mod operand;
mod parser;
mod types;
mod variable;

use std::fmt;

pub use types::{Space, Type};

/// A text that is not PTX, or not PTX that this driver runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PtxError {
    /// Line, from 1; 0 where the module as a whole is at fault.
    pub line: u32,
    /// Column, from 1; 0 where only the line is known.
    pub column: u32,
    /// The source text at that place.
    pub text: String,
    /// What is wrong and what was wanted.
    pub message: String,
}

impl fmt::Display for PtxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if self.column > 0 {
            write!(f, ", column {}", self.column)?;
        }
        write!(f, ": {}: `{}`", self.message, self.text)
    }
}

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// The architecture number of `.target`: 80 for `sm_80`.
    pub target: u32,
    /// Kernels and device functions that have a body, in the order of the text.
    pub functions: Vec<Function>,
    /// Variables of module scope.
    pub variables: Vec<Variable>,
}

/// A kernel or a device function.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Its symbol.
    pub name: String,
    /// An `.entry`, as opposed to a `.func`.
    pub is_kernel: bool,
    /// The parameters in order.
    pub params: Vec<Param>,
    /// The returned parameters of a device function.
    pub returns: Vec<Param>,
    /// `.maxntid` or `.reqntid`: the largest block.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the only block size allowed.
    pub required_threads: Option<[u32; 3]>,
    /// Line of its name.
    pub line: u32,
    /// Its virtual registers.
    pub registers: Vec<Register>,
    /// Its `.local`, `.shared` and `.param` variables.
    pub variables: Vec<Variable>,
    /// For every label the index of the instruction after it.
    pub labels: Vec<usize>,
    /// The label lists of `.branchtargets`, each under the label it stands at.
    pub branch_targets: Vec<(usize, Vec<usize>)>,
    /// The functions named by `.calltargets`, each list under the label it stands at.
    pub call_targets: Vec<(usize, Vec<String>)>,
    /// Its instructions.
    pub body: Vec<Instruction>,
}

/// A virtual register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its name, `%` included.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

/// A parameter, at its place in the parameter buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its symbol.
    pub name: String,
    /// Bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Offset in the buffer.
    pub offset: u32,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its symbol.
    pub name: String,
    /// Its state space.
    pub space: Space,
    /// Bytes; 0 for an array whose size is known at launch (dynamic shared memory).
    pub size: u64,
    /// Bytes of an element.
    pub element: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Declared here, defined in another module.
    pub is_extern: bool,
    /// The first bytes; the rest is zero.
    pub init: Vec<u8>,
    /// Addresses to be filled in.
    pub relocations: Vec<Relocation>,
    /// Line of its name.
    pub line: u32,
}

/// An address inside an initialiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Offset of the address in the variable.
    pub offset: usize,
    /// Bytes of the element.
    pub bytes: usize,
    /// The symbol.
    pub symbol: String,
    /// The element of an array, 0 for its first.
    pub element: i64,
    /// What is added to its address, in bytes.
    pub addend: i64,
    /// The address in the generic space is wanted.
    pub generic: bool,
}

/// An instruction with its names resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instruction {
    /// `ld` of `ld.global.f32`.
    pub opcode: String,
    /// The dotted words after it, without their dots.
    pub modifiers: Vec<String>,
    /// `@p` as (register, false), `@!p` as (register, true).
    pub guard: Option<(usize, bool)>,
    /// The operands in order.
    pub operands: Vec<Operand>,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// An operand with its names resolved; indices are into the [`Function`]'s lists.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(usize),
    /// `!p`.
    Not(usize),
    /// A special register, `%tid.x`.
    Special(String),
    /// An integer as 64 bits.
    Int(u64),
    /// A `0f` literal.
    Single(f32),
    /// A decimal or `0d` literal.
    Double(f64),
    /// A variable of the function and an offset.
    Variable(usize, i64),
    /// A parameter of the function and an offset.
    Param(usize, i64),
    /// A returned parameter of the function and an offset.
    Return(usize, i64),
    /// A name of module scope and an offset.
    Symbol(String, i64),
    /// A label.
    Label(usize),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[a + offset]`.
    Address(Box<Operand>, i64),
    /// `(a, b)`.
    List(Vec<Operand>),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`.
    Sink,
}

impl Module {
    /// Parses PTX text.
    ///
    /// # Errors
    /// The first place that is not PTX.
    pub fn parse(text: &str) -> Result<Module, PtxError> {
        parser::parse(text)
    }

    /// The function or kernel of that name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }
}

impl Function {
    /// Bytes of the parameter buffer.
    pub fn param_bytes(&self) -> u32 {
        self.params.last().map_or(0, |p| p.offset + p.size)
    }
}

impl Instruction {
    /// Opcode and modifiers as written.
    pub fn name(&self) -> String {
        let mut name = self.opcode.clone();
        for m in &self.modifiers {
            name.push('.');
            name.push_str(m);
        }
        name
    }
}
