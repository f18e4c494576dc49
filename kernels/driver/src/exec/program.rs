//! Programs: decoded kernels, and modules bound to a memory.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode;
use super::lanes::Isa;
use super::op::{Op, Pc, Slot};
use super::tally::Tally;
use crate::counters::{Class, Counters};
use crate::memory::Memory;
use crate::ptx::{Function, Module, PtxError, Relocation, Space, Variable};

/// A special register whose value is fixed while a block runs. Axes are 0 to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    MaskEqual,
    MaskLess,
    MaskLessEqual,
    MaskGreater,
    MaskGreaterEqual,
    DynamicShared,
    TotalShared,
    Value(u32),
}

/// What reports and counters say of an operation.
pub struct Info {
    pub line: u32,
    /// The instruction as written, without operands.
    pub name: String,
    pub class: Class,
    /// Floating-point operations of a lane.
    pub flops: u32,
}

/// A kernel with the device functions that it calls, decoded.
pub struct Program {
    pub name: String,
    pub ops: Vec<Op>,
    pub info: Vec<Info>,
    pub entry: Pc,
    pub slots: u32,
    pub preds: u32,
    pub frame_words: u32,
    pub constants: Vec<(Slot, u64, bool)>,
    pub specials: Vec<(Special, Slot)>,
    pub shared_bytes: u32,
    /// The smallest access to shared memory: 1, 2 or 4 bytes.
    pub shared_granule: usize,
}

impl Program {
    pub fn counters(&self, tally: &Tally) -> Counters {
        Counters::new(tally, self.info.iter().map(|i| (i.line, i.class, i.flops)))
    }
}

/// A module whose variables have addresses and whose kernels are decoded.
pub struct Loaded {
    kernels: Vec<Kernel>,
    globals: HashMap<String, (u64, u64)>,
}

/// A kernel ready to run; cheap to clone.
#[derive(Clone)]
pub struct Kernel {
    function: Arc<Function>,
    program: Arc<Program>,
}

impl Loaded {
    /// Allocates and initialises the module's variables in `memory` and decodes every kernel, for the best instruction
    /// set of this processor.
    ///
    /// # Errors
    /// An instruction that is not supported or ill-typed, or no memory for the variables.
    pub fn new(module: &Module, memory: &Memory) -> Result<Loaded, PtxError> {
        Loaded::for_isa(module, memory, Isa::detect())
    }

    /// As [`Loaded::new`], for a given instruction set, which the processor must have.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    pub fn for_isa(module: &Module, memory: &Memory, isa: Isa) -> Result<Loaded, PtxError> {
        let mut loaded = Loaded {
            kernels: Vec::new(),
            globals: HashMap::new(),
        };
        match loaded.fill(module, memory, isa) {
            Ok(()) => Ok(loaded),
            Err(error) => {
                loaded.unload(memory);
                Err(error)
            }
        }
    }

    fn fill(&mut self, module: &Module, memory: &Memory, isa: Isa) -> Result<(), PtxError> {
        let own: Vec<&Variable> = module
            .variables
            .iter()
            .filter(|v| matches!(v.space, Space::Global | Space::Const))
            .collect();
        for v in &own {
            if v.is_extern {
                return Err(variable_error(
                    v,
                    "is defined in another module: linking is not supported",
                ));
            }
            let address = memory
                .alloc(v.size)
                .map_err(|e| variable_error(v, &e.to_string()))?;
            self.globals.insert(v.name.clone(), (address, v.size));
        }
        for v in &own {
            let (address, size) = self.globals[&v.name];
            let mut init = v.init.clone();
            for r in &v.relocations {
                let target = self
                    .relocate(module, r)
                    .ok_or_else(|| variable_error(v, &format!("names {}", r.symbol)))?;
                init[r.offset..r.offset + r.bytes]
                    .copy_from_slice(&target.to_le_bytes()[..r.bytes]);
            }
            let written = memory
                .fill(address, &[0], size)
                .and_then(|()| memory.write(address, &init));
            written.map_err(|e| variable_error(v, &e.to_string()))?;
        }
        for function in module.functions.iter().filter(|f| f.is_kernel) {
            let program = decode::program(module, function, &self.globals, isa)?;
            self.kernels.push(Kernel {
                function: Arc::new(function.clone()),
                program: Arc::new(program),
            });
        }
        Ok(())
    }

    fn relocate(&self, module: &Module, r: &Relocation) -> Option<u64> {
        let Some(&(address, _)) = self.globals.get(&r.symbol) else {
            return decode::function_address(module, &r.symbol);
        };
        let variable = module.variables.iter().find(|v| v.name == r.symbol)?;
        let offset = r.element.wrapping_mul(variable.element.into());
        Some(address.wrapping_add_signed(offset.wrapping_add(r.addend)))
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.function.name == name)
    }

    /// The kernels in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Address and bytes of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Frees the module's variables.
    pub fn unload(self, memory: &Memory) {
        for (address, _) in self.globals.into_values() {
            // The variables were allocated here and nobody else frees them; a memory that lost them is fine too.
            let _ = memory.free(address);
        }
    }
}

fn variable_error(v: &Variable, message: &str) -> PtxError {
    PtxError {
        line: v.line,
        column: 0,
        text: v.name.clone(),
        message: format!("variable {} {message}", v.name),
    }
}

impl Kernel {
    /// Its declaration: name, parameters, block limits.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Bytes of statically declared shared memory.
    pub fn shared_bytes(&self) -> u32 {
        self.program.shared_bytes
    }

    /// Bytes of local memory a thread uses, parameters of device functions included.
    pub fn local_bytes(&self) -> u32 {
        self.program.frame_words * 4
    }

    /// Registers of 32 bits a thread uses here, constants included (not ptxas's figure).
    pub fn registers(&self) -> u32 {
        self.program.slots
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }
}
