//! How alike sentences are: the cosine of the first with each of the others.
//!
//!     cargo run --release --example embed -- all-MiniLM-L6-v2 "A cat sat." "Cats sit." "Stocks fell."

use std::error::Error;
use std::path::Path;

use deltaw_models::prelude::{Device, SentenceEncoder};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, first, others @ ..] = &arguments[..] else {
        return Err("usage: embed <folder of a checkpoint> <sentence> <sentence>…".into());
    };
    let encoder = SentenceEncoder::open(Path::new(folder), &Device::cpu())?;
    let first = encoder.embed(&[first])?;
    let texts: Vec<&str> = others.iter().map(String::as_str).collect();
    let cosines = encoder
        .embed(&texts)?
        .matmul(&first.t()?)?
        .to_vec::<f32>()?;
    for (cosine, text) in cosines.iter().zip(texts) {
        println!("{cosine:.4}  {text}");
    }
    Ok(())
}
