//! Corpora for language models: documents in three splits, and the stream of their tokens in windows.

use super::batch::{LmBatch, check_items};
use super::error::{DataError, Result, unknown};
use super::split::{Fractions, Split, Splits};
use super::{kjv, sentiment, wordnet};

/// The names that [`by_name`] knows.
pub const NAMES: [&str; 3] = ["kjv", "glosses", "reviews"];

/// The corpus of that name.
pub fn by_name(name: &str, fractions: &Fractions) -> Result<Splits<Vec<String>>> {
    match name {
        "kjv" => scripture(fractions, |_| true),
        "glosses" => glosses(fractions),
        "reviews" => reviews(fractions, &sentiment::Domain::ALL),
        _ => Err(unknown("corpus", name, &NAMES)),
    }
}

/// The King James Bible, of the books that `keep` accepts: a chapter is a document and the identity of its verses.
pub fn scripture(
    fractions: &Fractions,
    keep: impl Fn(&str) -> bool,
) -> Result<Splits<Vec<String>>> {
    let verses = kjv::load()?
        .iter()
        .filter(|v| keep(v.book))
        .collect::<Vec<_>>();
    let chapters = verses.chunk_by(|a, b| (a.book, a.chapter) == (b.book, b.chapter));
    let assign = |chapter: &&[&kjv::Verse]| chapter_split(fractions, chapter[0]);
    let splits = Splits::of(chapters, assign);
    let document =
        |chapter: &[&kjv::Verse]| chapter.iter().map(|v| v.text).collect::<Vec<_>>().join(" ");
    Ok(splits.map(|part| part.into_iter().map(document).collect()))
}

/// The split of a verse's chapter.
pub(super) fn chapter_split(fractions: &Fractions, verse: &kjv::Verse) -> Split {
    fractions.assign("kjv", &format!("{} {}", verse.book, verse.chapter))
}

/// WordNet as a dictionary, a document `word: gloss` for each sense, in the splits of the WordNet tasks.
pub fn glosses(fractions: &Fractions) -> Result<Splits<Vec<String>>> {
    let senses = &wordnet::load()?.senses;
    let splits = Splits::of(senses, |s| fractions.assign("wordnet", s.identity));
    Ok(splits.map(|part| {
        part.into_iter()
            .map(|s| format!("{}: {}", s.word, s.gloss))
            .collect()
    }))
}

/// The rated texts of some domains without their ratings, in the splits of the sentiment tasks.
pub fn reviews(
    fractions: &Fractions,
    domains: &[sentiment::Domain],
) -> Result<Splits<Vec<String>>> {
    let rated = sentiment::load()?
        .iter()
        .filter(|r| domains.contains(&r.domain));
    let splits = Splits::of(rated, |r| fractions.assign("sentiment", &r.identity()));
    Ok(splits.map(|part| part.into_iter().map(|r| r.text.to_string()).collect()))
}

/// Pairs (word, gloss) to train the writing of definitions, in the splits of the WordNet tasks.
pub fn definitions(fractions: &Fractions) -> Result<Splits<Vec<(String, String)>>> {
    let senses = &wordnet::load()?.senses;
    let splits = Splits::of(senses, |s| fractions.assign("wordnet", s.identity));
    Ok(splits.map(|part| {
        let pair = |s: &wordnet::Sense| (format!("{}:", s.word), s.gloss.to_string());
        part.into_iter().map(pair).collect()
    }))
}

/// The tokens of a corpus in a row.
#[derive(Debug, Clone)]
pub struct Stream {
    ids: Vec<u32>,
}

impl Stream {
    /// A stream of these tokens.
    pub fn new(ids: Vec<u32>) -> Self {
        Self { ids }
    }

    /// Appends another stream.
    pub fn extend(&mut self, other: &Stream) {
        self.ids.extend_from_slice(&other.ids);
    }

    /// All tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Windows of `columns` positions for a causal model: window i reads the tokens from i·columns on and is asked
    /// for each one's successor.
    pub fn causal(&self, columns: usize) -> Result<Windows<'_>> {
        Windows::new(self, columns, columns + 1, None)
    }

    /// Windows of `columns` positions for an encoder: `columns` − 2 tokens between `cls` and `sep`.
    pub fn bracketed(&self, columns: usize, cls: u32, sep: u32) -> Result<Windows<'_>> {
        Windows::new(self, columns, columns.saturating_sub(2), Some((cls, sep)))
    }
}

/// Windows of a stream, numbered from 0; what does not fill the last one is left out.
#[derive(Debug, Clone)]
pub struct Windows<'a> {
    stream: &'a Stream,
    columns: usize,
    brackets: Option<(u32, u32)>,
    count: usize,
}

impl<'a> Windows<'a> {
    fn new(
        stream: &'a Stream,
        columns: usize,
        needed: usize,
        brackets: Option<(u32, u32)>,
    ) -> Result<Self> {
        let have = stream.ids.len();
        if columns == 0 || needed == 0 || have < needed {
            return Err(DataError::Invalid {
                what: "Stream: windows".into(),
                found: format!("{columns} columns over {have} tokens"),
                wanted: "at least 1 column (3 with brackets) and a stream that fills one window"
                    .into(),
            });
        }
        let count = match brackets {
            None => (have - 1) / columns,
            Some(_) => have / needed,
        };
        Ok(Self {
            stream,
            columns,
            brackets,
            count,
        })
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no window; never, since construction asks for one.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The windows `items` as a batch, all positions weighted 1.
    ///
    /// Bracketed windows have their own ids as targets: [`super::masking::Masking`] hides some.
    pub fn batch(&self, items: &[u32]) -> Result<LmBatch> {
        check_items(items, self.count)?;
        let cells = items.len() * self.columns;
        let (mut ids, mut targets) = (Vec::with_capacity(cells), Vec::with_capacity(cells));
        for &item in items {
            match self.brackets {
                None => {
                    let window =
                        &self.stream.ids[item as usize * self.columns..][..self.columns + 1];
                    ids.extend_from_slice(&window[..self.columns]);
                    targets.extend_from_slice(&window[1..]);
                }
                Some((cls, sep)) => {
                    let inner = self.columns - 2;
                    ids.push(cls);
                    ids.extend_from_slice(&self.stream.ids[item as usize * inner..][..inner]);
                    ids.push(sep);
                }
            }
        }
        if self.brackets.is_some() {
            targets.clone_from(&ids);
        }
        Ok(LmBatch {
            rows: items.len(),
            columns: self.columns,
            ids,
            mask: vec![1.0; cells],
            targets,
            weights: vec![1.0; cells],
            items: items.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_stream_once() {
        let stream = Stream::new((0..10).collect());
        let causal = stream.causal(3).unwrap();
        assert_eq!(causal.len(), 3);
        let batch = causal.batch(&[2, 0]).unwrap();
        assert_eq!(batch.ids, [6, 7, 8, 0, 1, 2]);
        assert_eq!(batch.targets, [7, 8, 9, 1, 2, 3]);
        let bracketed = stream.bracketed(5, 90, 91).unwrap();
        assert_eq!(bracketed.len(), 3);
        assert_eq!(bracketed.batch(&[1]).unwrap().ids, [90, 3, 4, 5, 91]);
        assert!(stream.causal(10).is_err() && stream.causal(0).is_err());
        assert!(stream.bracketed(2, 90, 91).is_err());
        assert!(causal.batch(&[3]).is_err());
    }

    #[test]
    fn corpora_have_all_their_text_in_fixed_splits() {
        let fractions = Fractions::default();
        let sizes = |name| by_name(name, &fractions).unwrap().sizes();
        assert_eq!(sizes("kjv"), [943, 127, 119]);
        assert_eq!(sizes("glosses"), [31_937, 3_864, 4_256]);
        assert_eq!(sizes("reviews"), [19_005, 2_363, 2_335]);
        let genesis = scripture(&fractions, |book| book == "Ge").unwrap();
        assert_eq!(genesis.sizes().iter().sum::<usize>(), 50);
        let error = by_name("kjb", &fractions).unwrap_err().to_string();
        assert!(
            error.starts_with("no corpus `kjb`; nearest: `kjv`"),
            "{error}"
        );
    }
}
