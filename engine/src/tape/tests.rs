use super::*;
use crate::op::{apply, no_grad};

fn number(x: Option<&Tensor>) -> f64 {
    x.expect("a gradient").item().unwrap()
}

#[test]
fn a_tensor_used_twice_adds_its_gradients() {
    let x = Tensor::from([3.0]).trained();
    let y = x.mul(&x).unwrap().add(&x).unwrap();
    assert_eq!(number(backward(&y).unwrap().of(&x)), 7.0);
}

#[test]
fn deep_graphs_neither_overflow_in_the_sweep_nor_when_dropped() {
    let x = Tensor::from([1.0]).trained();
    let deep = || {
        let mut y = x.clone();
        for _ in 0..100_000 {
            y = y.affine(1.0, 1.0).unwrap();
        }
        y
    };
    assert_eq!(number(backward(&deep()).unwrap().of(&x)), 1.0);
    drop(deep());
}

#[test]
fn what_is_detached_or_not_recorded_has_no_gradient() {
    let x = Tensor::from([2.0]).trained();
    let y = x
        .square()
        .unwrap()
        .mul(&x.square().unwrap().detach())
        .unwrap();
    // d(x²·c)/dx with c = x² = 4.
    assert_eq!(number(backward(&y).unwrap().of(&x)), 16.0);
    let silent = no_grad(|| x.square()).unwrap();
    let message = backward(&silent).err().unwrap().to_string();
    assert!(
        message.starts_with("backward: nothing below this tensor is trained"),
        "{message}"
    );
}

#[test]
fn a_graph_is_swept_once_and_from_one_number() {
    let x = Tensor::from([1.0, 2.0]).trained();
    let y = x.square().unwrap();
    let message = backward(&y).err().unwrap().to_string();
    assert!(message.contains("the loss has shape [2]"), "{message}");
    let dy = Tensor::from([1.0, 10.0]);
    let grads = backward_with(&y, dy.clone()).unwrap();
    assert_eq!(grads.of(&x).unwrap().to_vec::<f32>().unwrap(), [2.0, 40.0]);
    let message = backward_with(&y, dy).err().unwrap().to_string();
    assert!(message.contains("was swept before"), "{message}");
    let message = backward_with(&x, Tensor::from([1.0]))
        .err()
        .unwrap()
        .to_string();
    assert_eq!(message, "backward: dy is [1], wanted [2]");
}

#[test]
fn gradients_are_a_value() {
    let (a, b) = (Tensor::from([1.0]).trained(), Tensor::from([2.0]).trained());
    let mut grads = backward(&a.mul(&b).unwrap()).unwrap();
    let kept = grads.clone();
    grads
        .add_scaled(backward(&a.square().unwrap()).unwrap(), 0.5)
        .unwrap();
    grads.scale(2.0).unwrap();
    // 2·(2 + ½·2·1) and 2·1; what was kept is as it was.
    assert_eq!((number(grads.of(&a)), number(grads.of(&b))), (6.0, 2.0));
    assert_eq!((number(kept.of(&a)), kept.len()), (2.0, 2));
    assert_eq!(grads.take(&b).unwrap().item().unwrap(), 2.0);
    assert!(grads.of(&b).is_none());
}

/// y = 2x, whose backward gives a gradient of the wrong shape.
struct Faulty;

impl Op for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }
    fn forward(&self, _: &mut crate::op::Forward, inputs: &[&Tensor]) -> Result<Tensor> {
        inputs[0].affine(2.0, 0.0)
    }
    fn backward(&self, _: Saved, dy: Tensor, grads: &mut Grads) -> Result<()> {
        grads.add(0, dy.sum_all()?)
    }
}

#[test]
fn an_op_that_returns_another_shape_is_caught() {
    let x = Tensor::from([1.0, 2.0]).trained();
    let y = apply(Faulty, &[&x]).unwrap().sum_all().unwrap();
    let message = backward(&y).err().unwrap().to_string();
    assert_eq!(
        message,
        "backward: gradient of input 0 has shape [], the input [2]"
    );
}
