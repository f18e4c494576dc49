//! 40,057 noun and verb senses of WordNet 3.0: a word, its hypernym, its gloss and one of 41 supersenses.

use super::embedded::{self, Cell, WORDNET, cached};
use super::error::Result;
use super::split::text_identity;
use std::collections::{HashMap, HashSet};

/// One sense of one word.
#[derive(Debug, Clone, PartialEq)]
pub struct Sense {
    /// Index into [`Table::supersenses`].
    pub supersense: u32,
    /// The word or phrase.
    pub word: &'static str,
    /// What it is a kind of.
    pub hypernym: &'static str,
    /// Its definition.
    pub gloss: &'static str,
    /// The identity that keeps whatever shares a word or a gloss in one split, directly or through others:
    /// the smallest word of that family.
    pub identity: &'static str,
}

/// All senses with the names of their classes.
pub struct Table {
    /// In the order of the file, shuffled over supersenses.
    pub senses: Vec<Sense>,
    /// The 41 supersenses (`noun.animal`, `verb.motion`, …), in alphabetical order.
    pub supersenses: Vec<&'static str>,
    concepts: Concepts,
}

impl Table {
    /// The number of a word or phrase that the table knows as word or hypernym; case does not matter.
    pub fn concept(&self, text: &str) -> Option<u32> {
        self.concepts.ids.get(&text.to_lowercase()).copied()
    }

    /// The concepts that `word` is known to be a kind of, itself included: hypernyms of hypernyms of all its senses.
    ///
    /// On the way up a hypernym is taken in its senses of the same supersense; where it has none, in all its senses
    /// of the same part of speech.
    pub fn ancestors(&self, word: &str) -> HashSet<u32> {
        let mut found = HashSet::new();
        let Some(start) = self.concept(word) else {
            return found;
        };
        found.insert(start);
        let above = |concept: u32| &self.concepts.above[concept as usize];
        let is_verb = |s: u32| self.supersenses[s as usize].starts_with("verb");
        let mut open: Vec<(u32, u32)> = above(start).iter().map(|&(s, _)| (start, s)).collect();
        let mut seen: HashSet<(u32, u32)> = open.iter().copied().collect();
        while let Some((concept, supersense)) = open.pop() {
            let senses = above(concept).iter().filter(|(s, _)| *s == supersense);
            for &(_, hypernym) in senses {
                found.insert(hypernym);
                let same = above(hypernym).iter().any(|(s, _)| *s == supersense);
                let fits = |s: u32| {
                    if same {
                        s == supersense
                    } else {
                        is_verb(s) == is_verb(supersense)
                    }
                };
                let next = above(hypernym)
                    .iter()
                    .filter(|(s, _)| fits(*s))
                    .map(|&(s, _)| (hypernym, s));
                open.extend(next.filter(|node| seen.insert(*node)));
            }
        }
        found
    }
}

/// Words and hypernyms in lower case, numbered, with what stands above each.
#[derive(Default)]
struct Concepts {
    ids: HashMap<String, u32>,
    /// For each concept its senses: (supersense, hypernym).
    above: Vec<Vec<(u32, u32)>>,
}

impl Concepts {
    fn of(&mut self, text: &str) -> u32 {
        let next = self.above.len() as u32;
        let id = *self.ids.entry(text.to_lowercase()).or_insert(next);
        if id == next {
            self.above.push(Vec::new());
        }
        id
    }
}

/// The embedded senses.
pub fn load() -> Result<&'static Table> {
    static TEXT: Cell<String> = Cell::new();
    static CELL: Cell<Table> = Cell::new();
    cached(&CELL, || {
        let text = cached(&TEXT, || WORDNET.unpacked())?;
        let rows = embedded::rows(&WORDNET, text, ["supersense", "word", "hypernym", "gloss"])?;
        let mut supersenses: Vec<&'static str> = rows.iter().map(|row| row[0]).collect();
        supersenses.sort_unstable();
        supersenses.dedup();
        let number = |name: &str| supersenses.partition_point(|s| *s < name) as u32;
        let mut concepts = Concepts::default();
        for [supersense, word, hypernym, _] in &rows {
            let (word, hypernym) = (concepts.of(word), concepts.of(hypernym));
            concepts.above[word as usize].push((number(supersense), hypernym));
        }
        let families = families(&rows);
        let senses = rows
            .into_iter()
            .zip(families)
            .map(|([supersense, word, hypernym, gloss], identity)| Sense {
                supersense: number(supersense),
                word,
                hypernym,
                gloss,
                identity,
            })
            .collect();
        Ok(Table {
            senses,
            supersenses,
            concepts,
        })
    })
}

/// For every row the smallest word among the rows that share a word or a gloss with it, transitively.
fn families(rows: &[[&'static str; 4]]) -> Vec<&'static str> {
    let mut parent: Vec<usize> = (0..rows.len()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut first: HashMap<(bool, String), usize> = HashMap::new();
    for (i, [_, word, _, gloss]) in rows.iter().enumerate() {
        for key in [(true, text_identity(word)), (false, text_identity(gloss))] {
            let other = *first.entry(key).or_insert(i);
            let (a, b) = (root(&mut parent, other), root(&mut parent, i));
            parent[b] = a;
        }
    }
    let roots: Vec<usize> = (0..rows.len()).map(|i| root(&mut parent, i)).collect();
    let mut smallest: Vec<&'static str> = rows.iter().map(|row| row[1]).collect();
    for (i, &r) in roots.iter().enumerate() {
        smallest[r] = smallest[r].min(rows[i][1]);
    }
    roots.into_iter().map(|r| smallest[r]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete() {
        let table = load().unwrap();
        assert_eq!((table.senses.len(), table.supersenses.len()), (40_057, 41));
        let sense = &table.senses[3];
        assert_eq!((sense.word, sense.hypernym), ("bridge", "structure"));
        assert_eq!(
            table.supersenses[sense.supersense as usize],
            "noun.artifact"
        );
    }

    #[test]
    fn ancestors_follow_the_chain_and_survive_cycles() {
        let table = load().unwrap();
        let above = table.ancestors("Pontoon Bridge");
        let is_above = |name| above.contains(&table.concept(name).unwrap());
        assert!(is_above("pontoon bridge") && is_above("bridge"));
        assert!(is_above("structure")); // the bridge that is an artifact …
        assert!(!is_above("card game")); // … not the one that is an act
        assert!(table.ancestors("no such word").is_empty());
    }

    #[test]
    fn families_join_over_words_and_glosses() {
        let rows = [
            ["s", "b", "h", "one gloss"],
            ["s", "a", "h", "One gloss!"],
            ["s", "A", "h", "another"],
            ["s", "c", "h", "a third"],
        ];
        assert_eq!(families(&rows), ["A", "A", "A", "c"]);
    }

    #[test]
    fn no_family_swallows_the_data() {
        let mut sizes: HashMap<&str, usize> = HashMap::new();
        for sense in &load().unwrap().senses {
            *sizes.entry(sense.identity).or_default() += 1;
        }
        let largest = sizes.values().max().copied().unwrap_or(0);
        assert!(largest < 400, "{largest} of {} families", sizes.len());
    }
}
