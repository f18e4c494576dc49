//! The King James Bible: 31,102 verses, 66 books as sub-domains.

use super::embedded::{Cell, KJV, cached};
use super::error::Result;

/// A verse.
#[derive(Debug, Clone, PartialEq)]
pub struct Verse {
    /// The book's abbreviation as in the source: `Ge`, `1Sm`, `Rev`, …
    pub book: &'static str,
    /// Chapter, from 1.
    pub chapter: u32,
    /// Verse, from 1.
    pub verse: u32,
    /// The words.
    pub text: &'static str,
}

/// The embedded verses in the order of the books.
pub fn load() -> Result<&'static [Verse]> {
    static TEXT: Cell<String> = Cell::new();
    static CELL: Cell<Vec<Verse>> = Cell::new();
    let verses = cached(&CELL, || {
        let text = cached(&TEXT, || KJV.unpacked())?;
        text.lines()
            .map(|line| {
                parse(line).ok_or_else(|| {
                    KJV.damaged(format!("line `{line}`"), "`Ge1:1 In the beginning …`")
                })
            })
            .collect()
    })?;
    Ok(verses)
}

/// Reads `1Sm2:3 Talk no more …`.
fn parse(line: &'static str) -> Option<Verse> {
    let (reference, text) = line.split_once(' ')?;
    let (place, verse) = reference.split_once(':')?;
    // A book's name may begin with its number, so the chapter is the run of digits at the end.
    let (book, chapter) =
        place.split_at(place.trim_end_matches(|c: char| c.is_ascii_digit()).len());
    if book.is_empty() || text.is_empty() {
        return None;
    }
    Some(Verse {
        book,
        chapter: chapter.parse().ok()?,
        verse: verse.parse().ok()?,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_books_are_there() {
        let verses = load().unwrap();
        assert_eq!(verses.len(), 31_102);
        let mut books: Vec<&str> = verses.iter().map(|v| v.book).collect();
        books.dedup();
        assert_eq!(books.len(), 66);
        let last = &verses[31_101];
        assert_eq!((last.book, last.chapter, last.verse), ("Rev", 22, 21));
    }

    #[test]
    fn numbered_books_keep_their_number() {
        let verse = parse("1Sm2:3 Talk no more so exceeding proudly;").unwrap();
        assert_eq!((verse.book, verse.chapter, verse.verse), ("1Sm", 2, 3));
        assert!(
            ["Ge1:1", "Ge1 In", "1:1 In", "Ge:1 In"]
                .iter()
                .all(|l| parse(l).is_none())
        );
    }
}
