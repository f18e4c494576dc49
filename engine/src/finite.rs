//! Who made the first NaN or infinity.
//!
//! While checking is on, every op that a program applies is looked at, forward and backward. What an op got is told apart
//! from what it made:
//!
//! - a NaN in the result while no operand held one was made by the op; so was an infinity while none held one;
//! - a NaN that an operand holds before the first op ran over it was there: in a parameter, an input or a constant;
//! - an infinity in an operand passes, since masks are made of −∞, unless the operand is a parameter.
//!
//! [`find_non_finite`] repeats a step that failed, with the checks on, to name the culprit.

use std::cell::{Cell, RefCell};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::param::Param;
use crate::tensor::Tensor;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    /// How many ops run inside one another.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static PLACES: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
}

/// Turns checking on or off for the ops that this thread applies. It reads every operand and result once.
pub fn set_check_finite(on: bool) {
    ON.set(on);
}

/// Whether ops are checked now.
pub(crate) fn checking() -> bool {
    ON.get()
}

/// Whether ops applied now are checked, not being parts of another op.
pub(crate) fn checking_here() -> bool {
    ON.get() && DEPTH.get() == 0
}

/// Runs `f` as a part of an op.
pub(crate) fn inside<T>(f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _leave = Leave;
    f()
}

/// Runs `f`, inside an op, as the program that it is: its ops are checked one by one.
pub(crate) fn outside<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEPTH.set(self.0);
        }
    }
    let _restore = Restore(DEPTH.replace(0));
    f()
}

/// Runs `f` as a part of the layer or site `path`, which errors about its ops then name.
pub fn at<T>(path: &str, f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            PLACES.with_borrow_mut(Vec::pop);
        }
    }
    if !checking() {
        return f();
    }
    PLACES.with_borrow_mut(|places| places.push(path.into()));
    let _leave = Leave;
    f()
}

/// The innermost path that [`at`] has entered.
pub(crate) fn place() -> Option<String> {
    PLACES.with_borrow(|places| places.last().cloned())
}

/// What a tensor holds that is not finite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Elements that are NaN.
    pub nan: usize,
    /// Elements that are ∞ or −∞.
    pub infinite: usize,
    /// Row-major position of the first of either.
    pub first: usize,
}

impl Census {
    /// Counts; elements that are no floats are finite.
    ///
    /// # Errors
    /// A tensor that cannot be read.
    pub fn of(x: &Tensor) -> Result<Census> {
        if !x.dtype().is_float() {
            return Ok(Census::default());
        }
        if x.dtype() == DType::F32 && x.device().is_cpu() {
            let x = x.packed()?;
            return Ok(Self::count(x.as_slice::<f32>()?, |x| {
                (x.is_nan(), x.is_infinite())
            }));
        }
        let values = x.to_vec::<f64>()?;
        Ok(Self::count(&values, |x| (x.is_nan(), x.is_infinite())))
    }

    fn count<T: Copy>(values: &[T], kind: impl Fn(T) -> (bool, bool)) -> Census {
        let (mut nan, mut infinite) = (0, 0);
        for x in values {
            let (n, i) = kind(*x);
            nan += n as usize;
            infinite += i as usize;
        }
        let odd = |x: &T| kind(*x) != (false, false);
        let first = match nan + infinite {
            0 => 0,
            _ => values.iter().position(odd).unwrap_or(0),
        };
        Census {
            nan,
            infinite,
            first,
        }
    }

    /// Whether there is none.
    pub fn is_finite(&self) -> bool {
        self.nan + self.infinite == 0
    }

    /// `2 NaN and 1 infinite of 12 element(s), the first at [1, 0]`.
    pub fn describe(&self, shape: &[usize]) -> String {
        let mut index = vec![0; shape.len()];
        let mut rest = self.first;
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i = rest % n;
            rest /= n;
        }
        format!(
            "{} NaN and {} infinite of {} element(s), the first at {index:?}",
            self.nan,
            self.infinite,
            shape.iter().product::<usize>()
        )
    }
}

/// Looks at operands before an op runs, and returns whether any is infinite.
pub(crate) fn check_operands(op: &'static str, inputs: &[&Tensor]) -> Result<bool> {
    let mut infinite = false;
    for (i, x) in inputs.iter().enumerate() {
        let census = Census::of(x)?;
        let name = x.edge().and_then(|e| e.leaf_name());
        if census.nan > 0 || (name.is_some() && !census.is_finite()) {
            let found = census.describe(x.shape());
            return Err(match name {
                Some(name) => Error::Param {
                    name: name.to_string(),
                    detail: format!("held {found} before {op} read it"),
                },
                None => Error::NonFinite {
                    op: op.into(),
                    place: place(),
                    detail: format!(
                        "operand {i} held {found} already; it is an input or a constant, not made by an op"
                    ),
                },
            });
        }
        infinite |= census.infinite > 0;
    }
    Ok(infinite)
}

/// Looks at what an op made from operands without NaN.
pub(crate) fn check_made(
    op: &str,
    place: Option<String>,
    was_infinite: bool,
    made: &Tensor,
) -> Result<()> {
    let census = Census::of(made)?;
    if census.nan == 0 && (was_infinite || census.infinite == 0) {
        return Ok(());
    }
    Err(Error::NonFinite {
        op: op.into(),
        place,
        detail: format!(
            "made {}; what it got was sound",
            census.describe(made.shape())
        ),
    })
}

/// Runs `step` (usually: the forward and backward pass of a step that ended in a NaN, again) with the checks on, after
/// looking at the parameters' values.
///
/// # Errors
/// The parameter or op that is to blame, and `step`'s own errors.
pub fn find_non_finite<T>(params: &[Param], step: impl FnOnce() -> Result<T>) -> Result<T> {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }
    for param in params {
        let value = param.value();
        let census = Census::of(&value)?;
        if !census.is_finite() {
            return Err(Error::Param {
                name: param.name().into(),
                detail: format!(
                    "holds {} before the step: an update made it, or it was loaded so",
                    census.describe(value.shape())
                ),
            });
        }
    }
    let _restore = Restore(ON.replace(true));
    step()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::backward;

    fn culprit(params: &[Param], step: impl FnOnce() -> Result<Tensor>) -> String {
        find_non_finite(params, step)
            .err()
            .map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn the_first_op_is_named_with_its_place() {
        let x = Tensor::from([[1.0, 0.0], [4.0, -1.0]]);
        let said = culprit(&[], || at("h.0", || x.affine(1.0, 0.0)?.sqrt()?.sum_all()));
        assert_eq!(
            said,
            "sqrt at h.0: made 1 NaN and 0 infinite of 4 element(s), the first at [1, 1]; what it got was sound"
        );
        let said = culprit(&[], || x.recip()?.add(&x));
        assert!(
            said.starts_with("recip: made 0 NaN and 1 infinite"),
            "{said}"
        );
    }

    #[test]
    fn what_was_there_before_is_told_apart() {
        let param = Param::new("w", Tensor::from([1.0, f32::INFINITY]));
        let said = culprit(std::slice::from_ref(&param), || param.tensor().square());
        assert!(
            said.starts_with("parameter `w`: holds 0 NaN and 1 infinite of 2"),
            "{said}"
        );
        let said = culprit(&[], || param.tensor().square());
        assert!(
            said.starts_with("parameter `w`: held 0 NaN and 1 infinite"),
            "{said}"
        );
        let said = culprit(&[], || Tensor::from([1.0]).add(&Tensor::from([f32::NAN])));
        assert!(said.starts_with("add: operand 1 held 1 NaN"), "{said}");
    }

    #[test]
    fn a_mask_of_minus_infinity_passes_and_hides_nothing() {
        let mask = Tensor::from([[0.0, f32::NEG_INFINITY], [0.0, 0.0]]);
        let x = Tensor::from([[1.0, 2.0], [3.0, 4.0]]).trained();
        let step = |x: &Tensor| {
            let y = x.add(&mask)?.softmax()?;
            backward(&y.square()?.sum_all()?)?;
            Ok(y)
        };
        assert_eq!(culprit(&[], || step(&x)), "");
        // A row of −∞ alone: ∞ − ∞ inside the op.
        let said = culprit(&[], || {
            let all = Tensor::from([[f32::NEG_INFINITY, f32::NEG_INFINITY]]);
            let rows = x.narrow(0, 0, 1)?.add(&all)?;
            rows.sub(&rows)
        });
        assert!(said.starts_with("sub: made 2 NaN"), "{said}");
    }

    #[test]
    fn backward_is_watched_too() {
        let x = Tensor::from([4.0, 0.0]).trained();
        let said = culprit(&[], || {
            let y = at("site", || x.sqrt())?.sum_all()?;
            backward(&y)?;
            Ok(y)
        });
        assert!(
            said.starts_with("backward of sqrt at site: made 0 NaN and 1 infinite"),
            "{said}"
        );
        assert!(!checking(), "the checks are off again");
    }
}
