//! Gives the shared library the soname `libcuda.so`: once it is loaded, from whatever path, glibc answers
//! `dlopen("libcuda.so")` with it. Its file name stays its own, so that it never shadows a real driver unasked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
