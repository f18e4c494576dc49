//! Training of the shipped tokeniser: byte-pair encoding (Gage 1994; Sennrich et al. 2016) over bytes.
//!
//! Words are what GPT-2's byte-level pre-tokeniser makes of a text. The vocabulary starts with the special
//! tokens and the 256 bytes; each merge then joins the pair of symbols that occurs most often, of equal ones the
//! pair with the smallest ids, so that a corpus determines the file bit for bit. A pair whose joined text is a
//! token already is passed over: each token is made in one way.

use super::corpus;
use super::error::{DataError, Result};
use super::split::Fractions;
use super::tokenizer::SPECIAL_TOKENS;
use std::collections::{BTreeMap, HashMap, HashSet};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Size of the shipped vocabulary: 6 special tokens, 256 bytes, 1,786 merges.
pub const VOCABULARY: usize = 2_048;

/// Trains the shipped tokeniser and returns its `tokenizer.json`.
///
/// The corpus is the King James Bible, the glosses and the rated texts, training splits of the default
/// fractions only. The file has the layout that the Hugging Face libraries read.
pub fn train_shipped() -> Result<String> {
    let fractions = Fractions::default();
    let mut documents = Vec::new();
    for name in corpus::NAMES {
        documents.extend(corpus::by_name(name, &fractions)?.train);
    }
    to_json(&train(&documents, VOCABULARY)?)
}

/// The tokens in order of their ids and the merges in order of their rank, as pairs of ids.
struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<(u32, u32)>,
}

type Pair = (u32, u32);

/// How often each pair occurs, and in which words.
#[derive(Default)]
struct Pairs {
    count: HashMap<Pair, i64>,
    words: HashMap<Pair, HashSet<usize>>,
}

impl Pairs {
    /// Adds (or with a negative `times` takes away) the pairs of a word.
    fn add(&mut self, word: usize, symbols: &[u32], times: i64) {
        for pair in symbols.windows(2).map(|w| (w[0], w[1])) {
            *self.count.entry(pair).or_default() += times;
            if times > 0 {
                self.words.entry(pair).or_default().insert(word);
            }
        }
    }
}

fn train(documents: &[String], size: usize) -> Result<Vocabulary> {
    let alphabet: Vec<char> = {
        let mut chars: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        chars.sort_unstable();
        chars
    };
    let specials = SPECIAL_TOKENS.iter().map(|s| s.to_string());
    let mut tokens: Vec<String> = specials
        .chain(alphabet.iter().map(char::to_string))
        .collect();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let id = |c: char| (SPECIAL_TOKENS.len() + alphabet.partition_point(|a| *a < c)) as u32;

    let (mut words, mut pairs) = (Vec::new(), Pairs::default());
    for (word, times) in count_words(documents)? {
        let symbols: Vec<u32> = word.chars().map(id).collect();
        pairs.add(words.len(), &symbols, times);
        words.push((symbols, times));
    }
    let mut merges = Vec::new();
    while tokens.len() < size {
        let order = |(pair, count): &(&Pair, &i64)| (**count, std::cmp::Reverse(**pair));
        let best = pairs
            .count
            .iter()
            .filter(|(_, count)| **count > 0)
            .max_by_key(order);
        let Some((&pair, _)) = best else { break };
        let joined = format!("{}{}", tokens[pair.0 as usize], tokens[pair.1 as usize]);
        let holders = pairs.words.remove(&pair).unwrap_or_default();
        pairs.count.remove(&pair);
        if !known.insert(joined.clone()) {
            continue;
        }
        let new = tokens.len() as u32;
        tokens.push(joined);
        merges.push(pair);
        for word in holders {
            let (symbols, times) = &mut words[word];
            let merged = merge(symbols, pair, new);
            pairs.add(word, symbols, -*times);
            pairs.add(word, &merged, *times);
            *symbols = merged;
        }
        pairs.count.remove(&pair);
    }
    Ok(Vocabulary { tokens, merges })
}

/// Joins each occurrence of `pair`, from the left.
fn merge(symbols: &[u32], pair: Pair, new: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(symbols.len());
    let mut rest = symbols;
    while let Some((&first, tail)) = rest.split_first() {
        if first == pair.0 && tail.first() == Some(&pair.1) {
            merged.push(new);
            rest = &tail[1..];
        } else {
            merged.push(first);
            rest = tail;
        }
    }
    merged
}

/// The pre-tokeniser: a leading space joins its word, and the first word gets one.
fn pre_tokenizer() -> ByteLevel {
    ByteLevel::new(true, false, true)
}

/// The words of the documents, one printable character a byte, with how often they occur.
fn count_words(documents: &[String]) -> Result<BTreeMap<String, i64>> {
    let splitter = pre_tokenizer();
    let mut counts = BTreeMap::new();
    for document in documents {
        let mut text = PreTokenizedString::from(document.as_str());
        splitter.pre_tokenize(&mut text).map_err(failed)?;
        for (word, ..) in text.get_splits(OffsetReferential::Original, OffsetType::None) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.to_string(), 1);
                }
            }
        }
    }
    Ok(counts)
}

/// The vocabulary as a `tokenizer.json` with byte-level pieces and BERT's `[CLS] a [SEP] b [SEP]`.
fn to_json(vocabulary: &Vocabulary) -> Result<String> {
    let tokens = &vocabulary.tokens;
    let text = |id: u32| tokens[id as usize].clone();
    let ids = tokens.iter().cloned().zip(0u32..).collect();
    let merges = vocabulary
        .merges
        .iter()
        .map(|&(a, b)| (text(a), text(b)))
        .collect();
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::new(ids, merges));
    let special = SPECIAL_TOKENS.map(|t| AddedToken::from(t, true));
    tokenizer.add_special_tokens(&special);
    let number = |token| tokens.iter().position(|t| t == token).unwrap_or(0) as u32;
    let template = TemplateProcessing::builder()
        .try_single("[CLS]:0 $A:0 [SEP]:0")
        .and_then(|b| b.try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"))
        .map_err(failed)?
        .special_tokens(["[CLS]", "[SEP]"].map(|t| (t, number(t))).to_vec())
        .build()
        .map_err(failed)?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer()));
    tokenizer.with_decoder(Some(pre_tokenizer()));
    tokenizer.with_post_processor(Some(template));
    tokenizer.to_string(true).map_err(failed)
}

fn failed(reason: impl ToString) -> DataError {
    DataError::Invalid {
        what: "tokeniser training".into(),
        found: reason.to_string(),
        wanted: "UTF-8 documents".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::embedded::TOKENIZER;

    #[test]
    fn merges_follow_the_counts_by_hand() {
        // " low" ×3, " lot" ×1: the pairs (Ġ,l) and (l,o) occur four times; `l` has the smaller id than `Ġ`.
        let documents = ["low low low lot".to_string()];
        let vocabulary = train(&documents, SPECIAL_TOKENS.len() + 256 + 3).unwrap();
        let learned = &vocabulary.tokens[SPECIAL_TOKENS.len() + 256..];
        assert_eq!(learned, ["lo", "Ġlo", "Ġlow"]);
    }

    #[test]
    fn merge_takes_overlaps_from_the_left() {
        assert_eq!(merge(&[7, 7, 7, 8], (7, 7), 9), [9, 7, 8]);
        assert_eq!(merge(&[], (7, 7), 9), [0u32; 0]);
    }

    #[test]
    fn training_ends_when_nothing_is_left_to_join() {
        let vocabulary = train(&["ab".to_string()], 10_000).unwrap();
        assert_eq!(vocabulary.tokens.len(), SPECIAL_TOKENS.len() + 256 + 2);
    }

    #[test]
    fn the_shipped_file_is_what_training_gives() {
        let trained = train_shipped().unwrap();
        assert!(
            trained == TOKENIZER.text().unwrap(),
            "models/data/{} differs: run `cargo run --release --example train-tokenizer`",
            TOKENIZER.name
        );
    }
}
