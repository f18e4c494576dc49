//! Embeds the shared library of a dependency that is built as both `rlib` and `cdylib`.
//!
//! The library does not exist yet when a build script runs, and is not built at all by `cargo check`; a macro
//! expands when the dependency has been built, and can see which file of it the compiler was given.

use proc_macro::TokenStream;

/// `shared_library!(crate_name)`: the bytes of that dependency's `.so`, as a `&[u8]`.
///
/// It is the file beside the `.rlib` that cargo passed as `--extern crate_name=…`, with the same stem, so that a
/// hash in the name is followed. Empty where nothing will be linked: `cargo check`, clippy, an editor.
#[proc_macro]
pub fn shared_library(input: TokenStream) -> TokenStream {
    let prefix = format!("{input}=");
    let library = std::env::args()
        .filter_map(|arg| {
            Some(arg.strip_prefix(&prefix)?.strip_suffix(".rlib")?.to_owned() + ".so")
        })
        .find(|path| std::path::Path::new(path).exists());
    match library {
        Some(path) => format!("include_bytes!({path:?})"),
        None => "&[]".to_owned(),
    }
    .parse()
    .expect("a string literal in a macro call is Rust")
}
