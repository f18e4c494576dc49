//! Elementwise functions, copies and conversions of operands with strides of their own.
//!
//! ```text
//! out[i] = f(x[i], …)        i over up to eight axes; a stride of 0 repeats an operand along an axis
//! ```
//!
//! Four neighbours along the last axis are a thread's; the other axes' places come by division. An operand whose last axis is
//! contiguous and whose rows are aligned is read 16 bytes at a time (f32), one that repeats along it once for all four. An
//! operand may be `out` itself, in the same layout. Functions are made of the CPU's operations in their order; sine, cosine and
//! powers, which the CPU has from the C library, go through f64 and are rounded once.
//!
//! Bytes at least: each operand's elements once. FLOPs: a function's own, of which memory never waits.

use std::mem::offset_of;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DeviceRepr};
use serde::Serialize;

pub use crate::element::Element;
use crate::element::class;
use crate::kernels::Grid;
use crate::template::{Ptx, Template};
use crate::{KernelError, Kernels};

const TEMPLATE: Template = Template {
    files: &[
        ("map.ptx", include_str!("../ptx/map.ptx")),
        ("element.ptx", include_str!("../ptx/element.ptx")),
        ("function.ptx", include_str!("../ptx/function.ptx")),
        ("math.ptx", include_str!("../ptx/math.ptx")),
    ],
};

const THREADS: u32 = 128;

/// The most axes.
pub const MAX_RANK: usize = 8;

/// A function of one operand; a and b are [`Map::constants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// a x + b.
    Affine,
    /// |x|.
    Abs,
    /// eˣ.
    Exp,
    /// ln x.
    Log,
    /// sin x, for |x| < 2⁴⁰; NaN beyond.
    Sin,
    /// cos x, for |x| < 2⁴⁰; NaN beyond.
    Cos,
    /// tanh x.
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// ln σ(x).
    LogSigmoid,
    /// max(x, 0).
    Relu,
    /// √x.
    Sqrt,
    /// 1 / x.
    Recip,
    /// x².
    Square,
    /// xᵃ for x ≥ 0; the derivative is a xᵇ, so b = a − 1.
    Pow,
    /// −1, 0 or 1.
    Sign,
    /// The error function.
    Erf,
    /// min(max(x, a), b).
    Clamp,
    /// x Φ(x).
    Gelu,
    /// GELU's tanh form.
    GeluTanh,
    /// x σ(x).
    Silu,
}

impl Unary {
    /// All of them.
    pub const ALL: [Unary; 20] = [
        Unary::Affine,
        Unary::Abs,
        Unary::Exp,
        Unary::Log,
        Unary::Sin,
        Unary::Cos,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::LogSigmoid,
        Unary::Relu,
        Unary::Sqrt,
        Unary::Recip,
        Unary::Square,
        Unary::Pow,
        Unary::Sign,
        Unary::Erf,
        Unary::Clamp,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Silu,
    ];

    fn name(self) -> &'static str {
        match self {
            Unary::Affine => "affine",
            Unary::Abs => "abs",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Tanh => "tanh",
            Unary::Sigmoid => "sigmoid",
            Unary::LogSigmoid => "log_sigmoid",
            Unary::Relu => "relu",
            Unary::Sqrt => "sqrt",
            Unary::Recip => "recip",
            Unary::Square => "square",
            Unary::Pow => "pow",
            Unary::Sign => "sign",
            Unary::Erf => "erf",
            Unary::Clamp => "clamp",
            Unary::Gelu => "gelu",
            Unary::GeluTanh => "gelu_tanh",
            Unary::Silu => "silu",
        }
    }

    /// Whether the derivative is made from the operand or the result, and so needs one of them.
    fn slope_reads(self) -> bool {
        !matches!(self, Unary::Affine | Unary::Sign)
    }
}

/// A function of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// x + w.
    Add,
    /// x − w.
    Sub,
    /// x w.
    Mul,
    /// x / w.
    Div,
    /// The larger; NaN wins.
    Maximum,
    /// The smaller; NaN wins.
    Minimum,
    /// x = w, as 0 or 1.
    Eq,
    /// x < w.
    Lt,
    /// x ≤ w.
    Le,
}

impl Binary {
    /// All of them.
    pub const ALL: [Binary; 9] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Maximum,
        Binary::Minimum,
        Binary::Eq,
        Binary::Lt,
        Binary::Le,
    ];

    fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Maximum => "maximum",
            Binary::Minimum => "minimum",
            Binary::Eq => "eq",
            Binary::Lt => "lt",
            Binary::Le => "le",
        }
    }
}

/// What is computed. Operands are f32 but for [`Function::Copy`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// x, in the type of `out`: floats to nearest, to integers by truncation and saturation.
    Copy,
    /// f(x).
    Unary(Unary),
    /// x f′(w), of (x, w), or of x alone where f′ needs neither operand nor result.
    Slope(Unary),
    /// f(x, w).
    Binary(Binary),
    /// x ≠ 0 ? w : v, of (x, w, v).
    Where,
    /// a x + w, rounded once.
    MultiplyAdd,
}

impl Function {
    /// One of each, copies aside.
    pub fn all() -> impl Iterator<Item = Function> {
        let unary = Unary::ALL
            .into_iter()
            .flat_map(|f| [Function::Unary(f), Function::Slope(f)]);
        let binary = Binary::ALL.into_iter().map(Function::Binary);
        unary
            .chain(binary)
            .chain([Function::Where, Function::MultiplyAdd])
    }

    fn kind(self) -> &'static str {
        match self {
            Function::Copy => "copy",
            Function::Unary(_) => "unary",
            Function::Slope(_) => "slope",
            Function::Binary(_) => "binary",
            Function::Where => "where",
            Function::MultiplyAdd => "multiply_add",
        }
    }

    fn which(self) -> &'static str {
        match self {
            Function::Unary(f) | Function::Slope(f) => f.name(),
            Function::Binary(f) => f.name(),
            Function::Copy | Function::Where | Function::MultiplyAdd => "",
        }
    }

    fn name(self) -> String {
        match self {
            Function::Slope(f) => format!("{}_slope", f.name()),
            Function::Unary(_) | Function::Binary(_) => self.which().into(),
            _ => self.kind().into(),
        }
    }

    /// Operands.
    pub fn arity(self) -> usize {
        match self {
            Function::Copy | Function::Unary(_) => 1,
            Function::Slope(f) => 1 + usize::from(f.slope_reads()),
            Function::Binary(_) | Function::MultiplyAdd => 2,
            Function::Where => 3,
        }
    }
}

/// How an operand is read or written along the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Four elements at a time.
    Vector,
    /// One element for all.
    Single,
    /// Element by element.
    Strided,
}

/// An operand in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Address of the first element.
    pub pointer: u64,
    /// Type of the elements.
    pub element: Element,
    /// Elements from one place to the next along each axis.
    pub strides: [usize; MAX_RANK],
}

/// An elementwise function to launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// What is computed.
    pub function: Function,
    /// a and b.
    pub constants: [f32; 2],
    /// Sizes, one axis at least.
    pub shape: Vec<usize>,
    /// Where it goes: no element may be reached twice.
    pub out: Operand,
    /// Where it comes from.
    pub inputs: Vec<Operand>,
}

/// What is fixed in a kernel's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What is computed.
    pub function: Function,
    /// Axes.
    pub rank: usize,
    /// Of `out`.
    pub out: (Element, Mode),
    /// Of the operands.
    pub inputs: Vec<(Element, Mode)>,
}

/// The kernel's argument, as the template reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arguments {
    /// Of `out`, then of the operands; strides are bytes.
    pointers: [u64; 4],
    strides: [[u64; MAX_RANK]; 4],
    shape: [u32; MAX_RANK],
    /// Of four elements: in all, and along the last axis.
    total: u32,
    chunks: u32,
    a: f32,
    b: f32,
}

// SAFETY: `repr(C)`, of plain numbers, copied by the driver at the launch.
unsafe impl DeviceRepr for Arguments {}

#[derive(Serialize)]
struct Place {
    name: &'static str,
    r#type: &'static str,
    class: &'static str,
    zero: &'static str,
    mode: &'static str,
    register: String,
    at: String,
    pointer: usize,
    strides: usize,
}

fn place(index: usize, of: &'static str, mode: Mode) -> Place {
    let name = ["y", "x", "w", "v"][index];
    Place {
        name,
        r#type: of,
        class: class(of),
        zero: if class(of) == "f32" {
            "0f00000000"
        } else {
            "0"
        },
        mode: match mode {
            Mode::Vector => "vector",
            Mode::Single => "single",
            Mode::Strided => "strided",
        },
        register: format!("%{name}"),
        at: match index {
            0 => "%at_out".into(),
            i => format!("%at_in{}", i - 1),
        },
        pointer: offset_of!(Arguments, pointers) + 8 * index,
        strides: offset_of!(Arguments, strides) + 8 * MAX_RANK * index,
    }
}

impl Variant {
    /// The kernel's name, different for each variant.
    pub fn name(&self) -> String {
        let letter = |mode: Mode| match mode {
            Mode::Vector => 'v',
            Mode::Single => 's',
            Mode::Strided => 'x',
        };
        let modes: String = std::iter::once(&self.out)
            .chain(&self.inputs)
            .map(|(_, mode)| letter(*mode))
            .collect();
        let types = match (self.function, self.inputs[0].0) {
            (Function::Copy, from) if from == self.out.0 => format!("_b{}", 8 * from.bytes()),
            (Function::Copy, from) => format!("_{}_{}", from.name(), self.out.0.name()),
            _ => String::new(),
        };
        format!("map_{}{types}_{modes}_{}", self.function.name(), self.rank)
    }

    /// The kernel's text.
    ///
    /// # Errors
    /// [`KernelError::Template`]; [`KernelError::Argument`]: a conversion that no kernel makes.
    pub fn expand(&self) -> Result<Ptx, KernelError> {
        #[derive(Serialize)]
        struct Values {
            name: String,
            kind: &'static str,
            which: &'static str,
            function: String,
            constants: bool,
            rank: usize,
            threads: u32,
            out: Place,
            inputs: Vec<Place>,
            at: crate::Offsets,
        }
        let (from, to) = (self.inputs[0].0, self.out.0);
        let [source, target] = match self.function {
            Function::Copy => from.converted(to),
            _ => Some(["f32"; 2]),
        }
        .ok_or_else(|| KernelError::Argument {
            kernel: "map",
            what: format!(
                "no copy from {} to {}: go by way of f32",
                from.name(),
                to.name()
            ),
        })?;
        TEMPLATE.expand(Values {
            name: self.name(),
            kind: self.function.kind(),
            which: self.function.which(),
            function: self.function.name(),
            constants: matches!(
                self.function,
                Function::MultiplyAdd
                    | Function::Unary(Unary::Affine | Unary::Pow | Unary::Clamp)
                    | Function::Slope(Unary::Affine | Unary::Pow | Unary::Clamp)
            ),
            rank: self.rank,
            threads: THREADS,
            out: place(0, target, self.out.1),
            inputs: (1..)
                .zip(&self.inputs)
                .map(|(i, (_, mode))| place(i, source, *mode))
                .collect(),
            at: crate::offsets!(Arguments: shape total chunks a b),
        })
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        THREADS as usize
    }
}

impl Map {
    /// Bytes that any kernel moves: each operand's elements once.
    pub fn minimum_bytes(&self) -> u64 {
        let elements = |x: &Operand| -> usize {
            let axes = self.shape.iter().zip(x.strides);
            axes.map(|(n, stride)| if stride == 0 { 1 } else { *n })
                .product::<usize>()
                * x.element.bytes()
        };
        std::iter::once(&self.out)
            .chain(&self.inputs)
            .map(elements)
            .sum::<usize>() as u64
    }

    fn mode(&self, x: &Operand) -> Mode {
        let (last, outer) = (self.shape.len() - 1, &x.strides[..self.shape.len() - 1]);
        let aligned = x
            .pointer
            .is_multiple_of((4 * x.element.bytes()).min(16) as u64)
            && outer.iter().all(|s| s.is_multiple_of(4));
        match x.strides[last] {
            1 if aligned => Mode::Vector,
            0 => Mode::Single,
            _ => Mode::Strided,
        }
    }

    /// The kernel that computes it.
    ///
    /// # Errors
    /// [`KernelError::Argument`]: operands that are not the function's, too many axes or elements.
    pub fn variant(&self) -> Result<Variant, KernelError> {
        let error = |what| {
            Err(KernelError::Argument {
                kernel: "map",
                what,
            })
        };
        let rank = self.shape.len();
        if self.inputs.len() != self.function.arity() {
            return error(format!(
                "{} of {} operands, wanted {}",
                self.function.name(),
                self.inputs.len(),
                self.function.arity()
            ));
        }
        if rank == 0 || rank > MAX_RANK || self.chunks().is_none() {
            return error(format!(
                "a shape of {:?}: wanted 1 to {MAX_RANK} axes and fewer than 2³¹ chunks of four along the last; split it",
                self.shape
            ));
        }
        let all_f32 = std::iter::once(&self.out)
            .chain(&self.inputs)
            .all(|x| x.element == Element::F32);
        if self.function != Function::Copy && !all_f32 {
            return error(format!("{} takes f32 only", self.function.name()));
        }
        // What repeats has no place of its own to be written to.
        let out = match self.mode(&self.out) {
            Mode::Single => Mode::Strided,
            mode => mode,
        };
        Ok(Variant {
            function: self.function,
            rank,
            out: (self.out.element, out),
            inputs: self
                .inputs
                .iter()
                .map(|x| (x.element, self.mode(x)))
                .collect(),
        })
    }

    /// Chunks in all and along the last axis.
    fn chunks(&self) -> Option<(u32, u32)> {
        let (last, outer) = self.shape.split_last()?;
        let chunks = last.div_ceil(4);
        let sizes = outer.iter().try_fold(chunks, |n, m| n.checked_mul(*m))?;
        let fits = sizes < 1 << 31 && *last < 1 << 31;
        fits.then_some((sizes as u32, chunks as u32))
    }

    /// Launches it on a stream. An empty shape launches nothing.
    ///
    /// # Errors
    /// [`KernelError`]: as [`Map::variant`], or the driver's refusal.
    ///
    /// # Safety
    /// All places that the operands reach must lie in memory of the stream's device, free of other use until the stream has
    /// come past. `out` reaches no element twice; it may be an operand in the same layout, and overlap none otherwise.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
    ) -> Result<(), KernelError> {
        if self.shape.contains(&0) {
            return Ok(());
        }
        let variant = self.variant()?;
        let (total, chunks) = self.chunks().unwrap_or_default();
        let mut arguments = Arguments {
            pointers: [0; 4],
            strides: [[0; MAX_RANK]; 4],
            shape: [0; MAX_RANK],
            total,
            chunks,
            a: self.constants[0],
            b: self.constants[1],
        };
        for (to, n) in arguments.shape.iter_mut().zip(&self.shape) {
            *to = *n as u32;
        }
        for (i, x) in std::iter::once(&self.out).chain(&self.inputs).enumerate() {
            arguments.pointers[i] = x.pointer;
            arguments.strides[i] = x.strides.map(|s| (s * x.element.bytes()) as u64);
        }
        let grid = Grid::over(total, THREADS);
        // SAFETY: the kernel takes exactly these arguments; the rest is the caller's promise.
        unsafe {
            kernels.launch(&variant.name(), grid, &arguments, stream, || {
                variant.expand()
            })
        }
    }
}
