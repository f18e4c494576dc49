//! x
#[test]
fn name() {
    deltaw_emulator::install();
    let c = cudarc::driver::CudaContext::device_count().unwrap();
    assert_eq!(c, 77);
}
