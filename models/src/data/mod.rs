//! Data: embedded files, tasks made of them, splits, tokeniser, batches; nothing here knows a tensor.
//!
//! From bytes to batches, each step a module:
//!
//! | step | module |
//! |---|---|
//! | embedded files, decoded at first use | [`mnist`], [`emoji`], [`sentiment`], [`wordnet`], [`kjv`] |
//! | splits by an item's identity | [`split`] |
//! | tasks by name | [`tasks`] (made of [`text`] and [`images`]) |
//! | language-model corpora | [`corpus`] |
//! | a user's own files | [`user`] |
//! | text to ids | [`tokenizer`], trained by [`bpe`] |
//! | ids to batches | [`batch`], masked by [`masking`] |
//! | which items next | [`order`]; subsets by [`draw::few_shot`] |
//!
//! What is drawn at random (orders, masks, subsets) is addressed by a seed and a place ([`draw`]), never by what
//! was drawn before: it is the same for every arm of an experiment, and after a resumption. Wrong answers
//! of the pair tasks are part of the data and depend on no seed.
//!
//! ```
//! use deltaw_models::data::{batch::Pad, order::Order, split::Fractions, tasks, tokenizer::Tokenizer};
//!
//! # fn main() -> deltaw_models::data::Result<()> {
//! let task = tasks::text_task("sentiment-tweet", &Fractions::default())?;
//! let tokenizer = Tokenizer::shipped()?;
//! let train = tokenizer.encode_examples(&task.splits.train, 64)?;
//! let mut order = Order::new(train.len(), 1)?.bucketed(train.lengths(), 16 * 8)?;
//! let batch = train.batch(&order.next_batch(16), Pad::Multiple(8))?;
//! assert_eq!(batch.ids.len(), 16 * batch.columns);
//! # Ok(())
//! # }
//! ```

pub mod batch;
pub mod bpe;
pub mod corpus;
pub mod draw;
mod embedded;
pub mod emoji;
mod error;
pub mod images;
pub mod kjv;
pub mod masking;
pub mod mnist;
pub mod order;
pub mod pictures;
pub mod sentiment;
pub mod split;
pub mod tasks;
pub mod text;
pub mod tokenizer;
pub mod user;
pub mod wordnet;

pub use error::{DataError, Result};
