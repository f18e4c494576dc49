//! Text to token ids and back, through the `tokenizers` crate: the shipped byte-level BPE or a user's file.

use super::batch::{EncodedText, Rows};
use super::corpus::Stream;
use super::embedded::TOKENIZER;
use super::error::{DataError, Result};
use super::text::Example;
use std::path::Path;
use tokenizers::{EncodeInput, Encoding, TruncationParams};

/// The special tokens of the shipped tokeniser; a token's id is its place.
pub const SPECIAL_TOKENS: [&str; 6] = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[UNK]",
    "<|endoftext|>",
];

/// No vocabulary has so many tokens; an id beyond it is a fault of the file.
const LARGEST: u32 = 1 << 24;

/// Ids of the special tokens; a tokeniser may lack some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Fills short rows; where a tokeniser has none, the end-of-text token or 0 (its positions are masked).
    pub pad: u32,
    /// Begins an encoder's input.
    pub cls: Option<u32>,
    /// Ends each segment of an encoder's input.
    pub sep: Option<u32>,
    /// Stands for a hidden token.
    pub mask: Option<u32>,
    /// Ends a document.
    pub end: Option<u32>,
}

/// A tokeniser.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    name: String,
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    is_special: Vec<bool>,
}

impl Tokenizer {
    /// The shipped tokeniser: byte-level BPE, 2,048 tokens, trained on training splits only.
    pub fn shipped() -> Result<Self> {
        Self::parse("the shipped tokenizer.json", TOKENIZER.bytes)
    }

    /// Bytes alone: the shipped tokeniser without its merges, 262 tokens.
    pub fn bytes() -> Result<Self> {
        let unreadable = |e: serde_json::Error| DataError::Read {
            file: "the shipped tokenizer.json".into(),
            reason: e.to_string(),
            wanted: "JSON".into(),
        };
        let mut json: serde_json::Value =
            serde_json::from_slice(TOKENIZER.bytes).map_err(unreadable)?;
        let alphabet = (SPECIAL_TOKENS.len() + 256) as u64;
        if let Some(vocabulary) = json["model"]["vocab"].as_object_mut() {
            vocabulary.retain(|_, id| id.as_u64().is_some_and(|id| id < alphabet));
        }
        json["model"]["merges"] = serde_json::Value::Array(Vec::new());
        Self::parse("the tokeniser of bytes", json.to_string().as_bytes())
    }

    /// A tokeniser from a `tokenizer.json` as the Hugging Face libraries write it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|e| DataError::Read {
            file: name.clone(),
            reason: e.to_string(),
            wanted: "a tokenizer.json".into(),
        })?;
        Self::parse(&name, &bytes)
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let unreadable = |reason: String| DataError::Read {
            file: name.into(),
            reason,
            wanted: "a tokenizer.json of the Hugging Face format".into(),
        };
        // The crate panics at some files that are no JSON and at some that are no tokeniser's.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|e| unreadable(e.to_string()))?;
        let mut inner = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|_| unreadable("it is no tokeniser's".into()))?
            .map_err(|e| unreadable(e.to_string()))?;
        let padding = inner.get_padding().map(|p| p.pad_id);
        // `[MASK]` in a text is six ordinary characters; padding and length are the batcher's business.
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| unreadable(e.to_string()))?;
        let find = |names: &[&str]| names.iter().find_map(|n| inner.token_to_id(n));
        let end = find(&["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"]);
        let special = SpecialIds {
            pad: find(&["[PAD]", "<pad>", "<|pad|>"])
                .or(padding)
                .or(end)
                .unwrap_or(0),
            cls: find(&["[CLS]", "<s>"]),
            sep: find(&["[SEP]", "</s>"]),
            mask: find(&["[MASK]", "<mask>"]),
            end,
        };
        let last = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if last > LARGEST {
            return Err(unreadable(format!("it has a token with the id {last}")));
        }
        let mut is_special = vec![false; last as usize + 1];
        for (id, token) in inner.get_added_tokens_decoder() {
            is_special[id as usize] = token.special;
        }
        Ok(Self {
            name: name.into(),
            inner,
            special,
            is_special,
        })
    }

    /// One more than the largest id: the number of rows that an embedding table needs.
    pub fn vocabulary(&self) -> usize {
        self.is_special.len()
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Whether an id is a special token: never masked, never drawn as a random replacement.
    pub fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    /// The ids of a text, without special tokens, in full.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding.map_err(|e| self.failed(e))?.get_ids().to_vec())
    }

    /// The text of ids, special tokens left out.
    ///
    /// For the shipped tokeniser this is the text that was encoded; only one space at its very start may be lost.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.inner.decode(ids, true).map_err(|e| self.failed(e))?;
        Ok(text.strip_prefix(' ').map(str::to_string).unwrap_or(text))
    }

    /// Encodes examples once and for all, with the tokeniser's special tokens and segment types, in parallel.
    ///
    /// A row longer than `max_len` loses tokens from its end; of a pair, the longer text loses first.
    pub fn encode_examples(&self, examples: &[Example], max_len: usize) -> Result<EncodedText> {
        let mut tokenizer = self.inner.clone();
        if max_len < 4 {
            return Err(DataError::Invalid {
                what: "Tokenizer::encode_examples: max_len".into(),
                found: max_len.to_string(),
                wanted: "at least 4: three special tokens of a pair and one of text".into(),
            });
        }
        let truncation = TruncationParams {
            max_length: max_len,
            ..Default::default()
        };
        let truncated = tokenizer.with_truncation(Some(truncation));
        truncated.map_err(|e| self.failed(e))?;
        let inputs: Vec<EncodeInput> = examples.iter().map(input).collect();
        let encoded = tokenizer.encode_batch_fast(inputs, true);
        let encoded = encoded.map_err(|e| self.failed(e))?;
        let mut text = EncodedText::new(self.special.pad);
        for (encoding, example) in encoded.iter().zip(examples) {
            text.push(encoding.get_ids(), encoding.get_type_ids(), example.target)?;
        }
        Ok(text)
    }

    /// The tokens of documents in a row, each ended by `separator`.
    pub fn stream(&self, documents: &[String], separator: u32) -> Result<Stream> {
        let inputs: Vec<&str> = documents.iter().map(String::as_str).collect();
        let mut ids = Vec::new();
        for encoding in self.batch(inputs)? {
            ids.extend_from_slice(encoding.get_ids());
            ids.push(separator);
        }
        Ok(Stream::new(ids))
    }

    /// Prompts with what should follow them: rows `prompt completion end` whose loss counts the completion
    /// and the end only.
    ///
    /// A row longer than `max_len` loses tokens from its end. Fails where the tokeniser has no end-of-text token.
    pub fn completions(&self, pairs: &[(String, String)], max_len: usize) -> Result<Rows> {
        let end = self.special.end.ok_or_else(|| DataError::Invalid {
            what: format!("{}: completions", self.name),
            found: "no end-of-text token".into(),
            wanted: "a tokeniser that has `<|endoftext|>` or `</s>`".into(),
        })?;
        let prompts = self.batch(pairs.iter().map(|p| p.0.as_str()).collect())?;
        let answers = self.batch(pairs.iter().map(|p| p.1.as_str()).collect())?;
        let mut rows = Rows::new(self.special.pad);
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let (prompt, answer) = (prompt.get_ids(), answer.get_ids());
            let mut ids = [prompt, answer, &[end]].concat();
            ids.truncate(max_len);
            rows.push(&ids, prompt.len());
        }
        Ok(rows)
    }

    fn batch(&self, inputs: Vec<&str>) -> Result<Vec<Encoding>> {
        let encoded = self.inner.encode_batch_fast(inputs, false);
        encoded.map_err(|e| self.failed(e))
    }

    fn failed(&self, reason: impl ToString) -> DataError {
        DataError::Invalid {
            what: self.name.clone(),
            found: reason.to_string(),
            wanted: "a text that this tokeniser can encode".into(),
        }
    }
}

fn input(example: &Example) -> EncodeInput<'_> {
    match &example.pair {
        Some(pair) => (example.text.as_str(), pair.as_str()).into(),
        None => example.text.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::text::Target;
    use proptest::prelude::*;

    fn example(text: &str, pair: Option<&str>) -> Example {
        Example {
            text: text.into(),
            pair: pair.map(Into::into),
            target: Target::Class(0),
        }
    }

    #[test]
    fn bytes_are_their_own_tokens() {
        let tokenizer = Tokenizer::bytes().unwrap();
        assert_eq!(tokenizer.vocabulary(), SPECIAL_TOKENS.len() + 256);
        for text in ["In the beginning", "naïve — 日本", "a  b\n"] {
            let ids = tokenizer.encode(text).unwrap();
            // A space before the first word, and then a token for every byte.
            assert_eq!(ids.len(), text.len() + 1, "{text}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn special_tokens_have_their_places() {
        let tokenizer = Tokenizer::shipped().unwrap();
        assert_eq!(tokenizer.vocabulary(), crate::data::bpe::VOCABULARY);
        let expected = SpecialIds {
            pad: 0,
            cls: Some(1),
            sep: Some(2),
            mask: Some(3),
            end: Some(5),
        };
        assert_eq!(tokenizer.special(), expected);
        let special = (0..2_048).filter(|&id| tokenizer.is_special(id));
        assert_eq!(special.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn pairs_carry_segment_types_and_lose_the_longer_text_first() {
        let tokenizer = Tokenizer::shipped().unwrap();
        let pair = example("the earth was without form", Some("the heaven"));
        let (a, b) = (
            tokenizer.encode(&pair.text).unwrap(),
            tokenizer.encode("the heaven").unwrap(),
        );
        let full = tokenizer
            .encode_examples(std::slice::from_ref(&pair), 64)
            .unwrap();
        assert_eq!(full.ids(0), [&[1], &a[..], &[2], &b[..], &[2]].concat());
        let types = [vec![0; a.len() + 2], vec![1; b.len() + 1]].concat();
        assert_eq!(full.types(0), types);
        let max_len = 3 + 2 * b.len();
        let cut = tokenizer.encode_examples(&[pair], max_len).unwrap();
        assert_eq!(
            cut.ids(0),
            [&[1], &a[..b.len()], &[2], &b[..], &[2]].concat()
        );
    }

    #[test]
    fn special_tokens_in_a_text_are_ordinary_characters() {
        let tokenizer = Tokenizer::shipped().unwrap();
        let ids = tokenizer.encode("a [MASK] <|endoftext|>").unwrap();
        assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a [MASK] <|endoftext|>");
    }

    #[test]
    fn completions_weigh_what_follows_the_prompt() {
        let tokenizer = Tokenizer::shipped().unwrap();
        let pairs = [("God".to_string(), "is light".to_string())];
        let (prompt, answer) = (
            tokenizer.encode("God").unwrap(),
            tokenizer.encode("is light").unwrap(),
        );
        let rows = tokenizer.completions(&pairs, 64).unwrap();
        let batch = rows.batch(&[0], crate::data::batch::Pad::Longest).unwrap();
        let all = [&prompt[..], &answer, &[5]].concat();
        assert_eq!(batch.ids, all[..all.len() - 1]);
        assert_eq!(batch.targets, all[1..]);
        let weights = [vec![0.0; prompt.len() - 1], vec![1.0; answer.len() + 1]].concat();
        assert_eq!(batch.weights, weights);
    }

    #[test]
    fn a_foreign_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, "{\"version\": 1").unwrap();
        let error = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: cannot be read"), "{error}");
        let error = Tokenizer::from_file(&dir.path().join("none")).unwrap_err();
        assert!(matches!(error, DataError::Read { .. }));
        let error = Tokenizer::shipped()
            .unwrap()
            .encode_examples(&[], 3)
            .unwrap_err();
        assert!(error.to_string().contains("max_len: 3"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Any text comes back byte for byte, but for one space at its start.
        #[test]
        fn any_text_comes_back(text in "\\PC{0,40}") {
            let tokenizer = Tokenizer::shipped().unwrap();
            let back = tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap();
            prop_assert_eq!(&back, text.strip_prefix(' ').unwrap_or(&text));
        }
    }
}
