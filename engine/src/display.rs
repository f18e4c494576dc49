//! How tensors print: columns aligned, long axes cut to their ends, one notation for all elements.

use std::fmt::{Debug, Display, Formatter, Result, Write};

use crate::tensor::Tensor;

/// Elements beyond which axes are cut.
const WHOLE: usize = 1000;
/// Elements shown at each end of an axis that is cut.
const EDGE: usize = 3;

/// How the numbers of one tensor are written.
enum Notation {
    Integer,
    /// Digits after the point; integers among floats keep the point.
    Fixed(usize),
    Scientific,
}

impl Notation {
    /// Four digits after the point; the exponent's form where that shows too little or too much.
    fn of(values: &[f64], integer: bool) -> Self {
        if integer {
            return Notation::Integer;
        }
        let sizes = || {
            values
                .iter()
                .map(|x| x.abs())
                .filter(|x| x.is_finite() && *x > 0.0)
        };
        let (low, high) = sizes().fold((f64::INFINITY, 0.0f64), |(l, h), x| (l.min(x), h.max(x)));
        if sizes().all(|x| x.fract() == 0.0) && high < 1e8 {
            Notation::Fixed(0)
        } else if high >= 1e8 || low < 1e-4 || high / low > 1e5 {
            Notation::Scientific
        } else {
            Notation::Fixed(4)
        }
    }

    fn write(&self, x: f64) -> String {
        match self {
            _ if x.is_nan() => "nan".into(),
            _ if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
            Notation::Integer => format!("{x}"),
            Notation::Fixed(0) => format!("{x:.0}."),
            Notation::Fixed(digits) => format!("{x:.digits$}"),
            Notation::Scientific => format!("{x:.4e}"),
        }
    }
}

/// The indices of an axis that are shown; `None` stands for the cut.
fn shown(n: usize, cut: bool) -> Vec<Option<usize>> {
    if cut && n > 2 * EDGE {
        let head = (0..EDGE).map(Some);
        let tail = (n - EDGE..n).map(Some);
        head.chain([None]).chain(tail).collect()
    } else {
        (0..n).map(Some).collect()
    }
}

struct Printer<'a> {
    values: &'a [f64],
    notation: Notation,
    width: usize,
    cut: bool,
}

impl Printer<'_> {
    /// Elements of the parts that are shown, in order.
    fn visit(&self, shape: &[usize], start: usize, f: &mut impl FnMut(f64)) {
        let Some((n, inner)) = shape.split_first() else {
            return f(self.values[start]);
        };
        let step: usize = inner.iter().product();
        for i in shown(*n, self.cut).into_iter().flatten() {
            self.visit(inner, start + i * step, f);
        }
    }

    fn print(&self, out: &mut String, shape: &[usize], start: usize, indent: usize) {
        let Some((n, inner)) = shape.split_first() else {
            let text = self.notation.write(self.values[start]);
            let pad = self.width.saturating_sub(text.chars().count());
            out.extend(std::iter::repeat_n(' ', pad));
            return out.push_str(&text);
        };
        let step: usize = inner.iter().product();
        out.push('[');
        for (place, index) in shown(*n, self.cut).into_iter().enumerate() {
            if place > 0 && inner.is_empty() {
                out.push_str(", ");
            } else if place > 0 {
                out.push(',');
                out.extend(std::iter::repeat_n('\n', inner.len()));
                out.extend(std::iter::repeat_n(' ', indent + 1));
            }
            match index {
                Some(i) => self.print(out, inner, start + i * step, indent + 1),
                None => out.push('…'),
            }
        }
        out.push(']');
    }
}

/// Nested brackets, a row a line. Beyond 1000 elements, long axes show three at each end.
impl Display for Tensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let values = match self.to_vec::<f64>() {
            Ok(values) => values,
            Err(e) => return write!(f, "<{e}>"),
        };
        let mut printer = Printer {
            values: &values,
            notation: Notation::Integer,
            width: 0,
            cut: values.len() > WHOLE,
        };
        let mut seen = vec![];
        printer.visit(self.shape(), 0, &mut |x| seen.push(x));
        printer.notation = Notation::of(&seen, !self.dtype().is_float());
        let widths = seen.iter().map(|x| printer.notation.write(*x).len());
        printer.width = widths.max().unwrap_or(0);
        let mut out = String::new();
        printer.print(&mut out, self.shape(), 0, 0);
        f.write_str(&out)
    }
}

/// Shape, element type, device and whether backward reaches it, then the elements.
impl Debug for Tensor {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(
            f,
            "Tensor{:?} {} on {}",
            self.shape(),
            self.dtype(),
            self.device()
        )?;
        if self.requires_grad() {
            f.write_str(", on the tape")?;
        }
        f.write_char('\n')?;
        Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use crate::device::Device;
    use crate::tensor::Tensor;

    #[test]
    fn columns_line_up() {
        let x = Tensor::from([[1.0, -0.5], [22.25, f32::NAN]]);
        assert_eq!(x.to_string(), "[[ 1.0000, -0.5000],\n [22.2500,     nan]]");
        assert_eq!(
            Tensor::from([1.0, 0.0, -3.0]).to_string(),
            "[ 1.,  0., -3.]"
        );
        assert_eq!(
            Tensor::from([1e-9, 1.0]).to_string(),
            "[1.0000e-9,  1.0000e0]"
        );
        assert_eq!(Tensor::from(2.5).to_string(), "2.5000");
        assert_eq!(Tensor::from([[0.0; 0]; 2]).to_string(), "[[],\n []]");
    }

    #[test]
    fn long_axes_are_cut_and_integers_have_no_point() {
        let x = Tensor::arange(1200, &Device::cpu()).unwrap();
        assert_eq!(x.to_string(), "[   0,    1,    2, …, 1197, 1198, 1199]");
        let y = x.reshape(&[2, 2, 300]).unwrap();
        assert_eq!(
            y.to_string(),
            "[[[   0,    1,    2, …,  297,  298,  299],\n  [ 300,  301,  302, …,  597,  598,  599]],\n\n \
             [[ 600,  601,  602, …,  897,  898,  899],\n  [ 900,  901,  902, …, 1197, 1198, 1199]]]"
        );
        let debug = format!("{:?}", Tensor::from([1.0]).trained());
        assert_eq!(debug, "Tensor[1] f32 on cpu, on the tape\n[1.]");
    }
}
