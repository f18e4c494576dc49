//! PTX text: lexer, parser, and the module they build.

use std::fmt;

/// A text that is not PTX, or not PTX that this driver runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PtxError {
    /// Line, from 1.
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
    /// `.maxntid` or `.reqntid`: the largest block.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the only block size allowed.
    pub required_threads: Option<[u32; 3]>,
    /// Bytes of statically declared `.shared` variables it uses, alignment included.
    pub static_shared: u32,
    /// Line of its name.
    pub line: u32,
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

/// A variable of module scope.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its symbol.
    pub name: String,
    /// Bytes; 0 for an `extern` array without a size.
    pub size: u64,
}

impl Module {
    /// Parses PTX text.
    ///
    /// # Errors
    /// The first place that is not PTX.
    pub fn parse(text: &str) -> Result<Module, PtxError> {
        let first = text.lines().next().unwrap_or_default();
        Err(PtxError {
            line: 1,
            column: 1,
            text: first.into(),
            message: "not supported yet".into(),
        })
    }

    /// The function or kernel of that name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// Bytes of a function's parameter buffer.
    pub fn param_bytes(function: &Function) -> u32 {
        function.params.last().map_or(0, |p| p.offset + p.size)
    }
}
