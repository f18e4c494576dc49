//! 23,703 short texts rated for sentiment by about 20 people each (Hutto & Gilbert 2014).

use super::embedded::{self, Cell, SENTIMENT, cached};
use super::error::{Result, unknown};
use super::split::text_identity;

/// Where a text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// Sentences of film reviews: 10,605.
    Movie,
    /// Sentences of product reviews: 3,708.
    Product,
    /// Tweets: 4,200.
    Tweet,
    /// Sentences of newspaper editorials: 5,190.
    Editorial,
}

impl Domain {
    /// All four.
    pub const ALL: [Domain; 4] = [
        Domain::Movie,
        Domain::Product,
        Domain::Tweet,
        Domain::Editorial,
    ];

    /// The domain's name: `movie`, `product`, `tweet` or `editorial`.
    pub fn name(self) -> &'static str {
        match self {
            Domain::Movie => "movie",
            Domain::Product => "product",
            Domain::Tweet => "tweet",
            Domain::Editorial => "editorial",
        }
    }

    /// The domain of that name.
    pub fn from_name(name: &str) -> Result<Self> {
        let names = Domain::ALL.map(Domain::name);
        let found = Domain::ALL.into_iter().find(|d| d.name() == name);
        found.ok_or_else(|| unknown("sentiment domain", name, &names))
    }
}

/// A text with its mean rating.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated {
    /// Source.
    pub domain: Domain,
    /// Mean rating, −4 (extremely negative) to 4 (extremely positive).
    pub rating: f32,
    /// The text.
    pub text: &'static str,
}

impl Rated {
    /// Texts that differ in case, punctuation or spacing only are one item.
    pub fn identity(&self) -> String {
        text_identity(self.text)
    }
}

/// The embedded texts, all domains.
pub fn load() -> Result<&'static [Rated]> {
    static TEXT: Cell<String> = Cell::new();
    static CELL: Cell<Vec<Rated>> = Cell::new();
    let rated = cached(&CELL, || {
        let text = cached(&TEXT, || SENTIMENT.unpacked())?;
        let rows = embedded::rows(&SENTIMENT, text, ["domain", "rating", "text"])?;
        rows.into_iter()
            .map(|[domain, rating, text]| {
                let domain = match domain {
                    "amazon" => Domain::Product,
                    "nyt" => Domain::Editorial,
                    name => Domain::from_name(name)?,
                };
                let valid = rating.parse().ok().filter(|r: &f32| r.abs() <= 4.0);
                let rating = valid.ok_or_else(|| {
                    SENTIMENT.damaged(format!("rating `{rating}`"), "a number in [-4, 4]")
                })?;
                Ok(Rated {
                    domain,
                    rating,
                    text,
                })
            })
            .collect()
    })?;
    Ok(rated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_domain_is_complete() {
        let rated = load().unwrap();
        let count = |d: Domain| rated.iter().filter(|r| r.domain == d).count();
        assert_eq!(Domain::ALL.map(count), [10_605, 3_708, 4_200, 5_190]);
        assert_eq!(rated[2].text, "Effective but too tepid biopic");
        assert_eq!(rated[2].rating, -0.6);
        assert!(
            Domain::from_name("tweets")
                .unwrap_err()
                .to_string()
                .contains("`tweet`")
        );
    }
}
