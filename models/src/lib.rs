//! deltaw-models: layers, models, data, fine-tuning methods, the experiment harness, and one binary per paper.
//!
//! A network that learns to read digits:
//!
//! ```
//! use deltaw_models::prelude::*;
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let task = tasks::image_task("mnist", &Fractions::default())?;
//! let (train, test) = (&task.splits.train, &task.splits.test);
//!
//! let store = Store::new(&Device::cpu(), 1);
//! let hidden = Linear::new(&store.at("hidden"), Role::MlpUp, 0, 28 * 28, 128)?;
//! let output = Linear::new(&store.at("output"), Role::Other, 1, 128, 10)?;
//! let logits = |ctx: &Context, batch: &ImageBatch| {
//!     let pixels = Tensor::from_slice(&batch.pixels, &[batch.labels.len(), 28 * 28], store.device())?;
//!     output.forward(ctx, &hidden.forward(ctx, &pixels)?.gelu()?)
//! };
//!
//! let (params, mut optimiser) = (store.trained(), AdamW::new(0.01));
//! let mut order = Order::new(train.len(), 1)?;
//! for step in 0..300 {
//!     let batch = train.batch(&order.next_batch(64), &task.normalisation)?;
//!     let labels = Tensor::from_slice(&batch.labels, &[64], store.device())?;
//!     let loss = cross_entropy(&logits(&Context::train(1, step), &batch)?, &labels, &Default::default())?;
//!     optimiser.step(&params, &backward(&loss)?, 2e-3)?;
//! }
//!
//! let unseen = test.batch(&(0..500).collect::<Vec<_>>(), &task.normalisation)?;
//! let said = no_grad(|| logits(&Context::eval(), &unseen))?.argmax()?.to_vec::<u32>()?;
//! let right = said.iter().zip(&unseen.labels).filter(|(a, b)| a == b).count();
//! println!("{right} of 500 digits it has not seen");
//! assert!(right > 440); // 468 when this was written; chance would be 50
//! # Ok(())
//! # }
//! ```
//!
//! Fine-tuning is the same loop with a method attached to the store ([`methods`]). A method of one's own can live in any
//! crate: `tests/custom-method` is a worked example.

pub mod block;
pub mod cache;
pub mod clip;
pub mod components;
pub mod data;
pub mod deberta;
pub mod decoder;
pub mod diffusion;
pub mod dit;
pub mod encoder;
pub mod experiment;
pub mod generate;
pub mod hub;
pub mod layers;
pub mod methods;
pub mod metrics;
pub mod report;
pub mod sentence;
pub mod seq2seq;
pub mod train;
pub mod transformer;
pub mod vit;

/// What most programs need: the engine's prelude, models, methods and data.
pub mod prelude {
    pub use deltaw_engine::checkpoint;
    pub use deltaw_engine::optim::{AdamW, Schedule, clip_global_norm};
    pub use deltaw_engine::prelude::*;

    pub use crate::clip::{Clip, ClipConfig, contrastive_loss};
    pub use crate::data::batch::{EncodedText, Pad, TextBatch};
    pub use crate::data::images::{ImageBatch, ImageSet, ImageTask};
    pub use crate::data::order::Order;
    pub use crate::data::split::Fractions;
    pub use crate::data::tasks;
    pub use crate::data::tokenizer::Tokenizer;
    pub use crate::deberta::{ContextHead, Deberta, DebertaConfig};
    pub use crate::decoder::{Decoder, DecoderConfig, Generation, next_token_loss};
    pub use crate::encoder::{
        Encoder, EncoderConfig, EncoderFamily, MaskedLmHead, SequenceHead, TextEncoder,
    };
    pub use crate::hub::Folder;
    pub use crate::layers::{Embedding, Linear, Norm};
    pub use crate::methods::adalora::AdaLora;
    pub use crate::methods::dora::Dora;
    pub use crate::methods::ia3::Ia3;
    pub use crate::methods::lora::Lora;
    pub use crate::methods::oft::Oft;
    pub use crate::methods::pissa::Pissa;
    pub use crate::methods::selective::{BitFit, Full, LinearProbe};
    pub use crate::methods::vera::Vera;
    pub use crate::methods::{
        Adapted, Adapter, Adapters, Attached, Axes, Combination, Factor, Form, Method, Targets,
    };
    pub use crate::sentence::SentenceEncoder;
    pub use crate::seq2seq::{BartConfig, EncoderDecoder, T5Config};
    pub use crate::vit::{ImageHead, Vit, VitConfig};
}
