use super::*;

#[test]
fn views_share_and_copies_do_not() {
    let x = Tensor::from([[1.0, 2.0], [3.0, 4.0]]);
    let mut copy = x.deep_clone().unwrap();
    copy.as_mut_slice::<f32>().unwrap()[0] = 9.0;
    assert_eq!(x.to_vec::<f32>().unwrap()[0], 1.0);
    let column = x.narrow(1, 1, 1).unwrap();
    assert_eq!(column.to_vec::<f32>().unwrap(), [2.0, 4.0]);
    let message = column.as_slice::<f32>().unwrap_err().to_string();
    assert!(message.contains("call `packed` first"), "{message}");
    let mut shared = x.clone();
    let message = shared.as_mut_slice::<f32>().unwrap_err().to_string();
    assert!(message.contains("write to a `deep_clone`"), "{message}");
}

#[test]
fn what_is_refused_names_shapes_and_types() {
    let cpu = Device::cpu();
    let message = Tensor::from_slice(&[1.0f32; 3], &[2, 2], &cpu)
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "from_slice: 3 values for shape [2, 2], which holds 4"
    );
    let message = Tensor::from([1.0, 2.0]).item().unwrap_err().to_string();
    assert_eq!(message, "item: shape [2] does not hold exactly one element");
    let message = Tensor::from([1.0]).to_vec::<u32>().unwrap_err().to_string();
    assert_eq!(
        message,
        "to_vec: elements are f32, asked for u32; convert first"
    );
    let message = Tensor::zeros(&[2], DType::F64, &cpu)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("f64 lives on the oracle device"),
        "{message}"
    );
    let message = Tensor::zeros(&[1; 9], DType::F32, &cpu)
        .unwrap_err()
        .to_string();
    assert!(message.contains("at most 8 are supported"), "{message}");
    let other = Tensor::from([1.0]).to_device(&Device::oracle()).unwrap();
    let message = Tensor::from([1.0]).add(&other).unwrap_err().to_string();
    assert_eq!(
        message,
        "add: operands on cpu and oracle; move one with `to_device`"
    );
}

#[test]
fn conversions_round_to_nearest() {
    // 1 + 2⁻⁸ lies halfway between two bf16: the even one.
    let x = Tensor::from([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.0]);
    let y = x.converted(DType::Bf16).unwrap();
    assert_eq!(y.to_vec::<f64>().unwrap(), [1.0, 1.015625, 0.0]);
    let full = Tensor::full(&[2], 0.1, DType::F16, &Device::cpu()).unwrap();
    assert_eq!(full.to_vec::<f64>().unwrap(), [0.0999755859375; 2]);
}
