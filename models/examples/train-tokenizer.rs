//! Trains the shipped tokeniser anew and writes its `tokenizer.json`: the same bytes on every machine.
//!
//!     cargo run --release --example train-tokenizer -- models/data/text/tokenizer.json

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: train-tokenizer <tokenizer.json to write>")?;
    let json = deltaw_models::data::bpe::train_shipped()?;
    std::fs::write(&path, json)?;
    println!("{path}: {} tokens", deltaw_models::data::bpe::VOCABULARY);
    Ok(())
}
