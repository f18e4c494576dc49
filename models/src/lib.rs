//! deltaw-models: layers, models, data, fine-tuning methods, the experiment harness, and one binary per paper.

pub mod data;
pub mod decoder;
pub mod encoder;
pub mod experiment;
pub mod layers;
pub mod methods;
pub mod report;
pub mod train;
pub mod transformer;
pub mod vit;
