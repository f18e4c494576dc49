//! Regular expressions of PEFT's configurations, in Python's syntax as far as `fancy_regex` shares it: groups, classes,
//! look-around, back-references. Nesting, compiled size and the steps of a match are bounded: a pattern that would take
//! for ever is an error.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;

use deltaw_engine::prelude::*;
use fancy_regex::{Regex, RegexBuilder};

/// Steps back of one match; Python's own engine has no bound.
const BACKTRACKS: usize = 100_000;
/// Bytes of one compiled pattern.
const COMPILED: usize = 4 << 20;

/// A compiled pattern. Two are equal when their texts are.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Arc<Regex>,
}

impl Pattern {
    /// One that has to match a whole name, as `re.fullmatch` does.
    ///
    /// # Errors
    /// No such expression, or one too deep or too large.
    pub fn whole(text: &str) -> Result<Self> {
        Self::compile(text, &format!(r"\A(?:{text})\z"))
    }

    /// One that has to match the last components of a name: what keys of `rank_pattern` are.
    ///
    /// # Errors
    /// As [`Pattern::whole`].
    pub fn tail(text: &str) -> Result<Self> {
        Self::compile(text, &format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// One of components before a layer's number, as in `layers_pattern`: [`Pattern::index`] is that number.
    pub(super) fn layer(text: &str) -> Result<Self> {
        Self::compile(text, &format!(r"\A(?:.*?\.)?{text}\.(?P<idx>[0-9]+)\."))
    }

    fn compile(text: &str, expression: &str) -> Result<Self> {
        let built = RegexBuilder::new(expression)
            .backtrack_limit(BACKTRACKS)
            .delegate_size_limit(COMPILED)
            .build();
        let regex = built.map_err(|e| {
            Error::Invalid(format!(
                "pattern {}: no expression that is read here ({e}); a list of module names does without",
                shortened(text)
            ))
        })?;
        Ok(Pattern {
            text: text.into(),
            regex: Arc::new(regex),
        })
    }

    /// Whether it matches a module's name.
    ///
    /// # Errors
    /// It takes too many steps.
    pub fn matches(&self, name: &str) -> Result<bool> {
        self.regex.is_match(name).map_err(|e| self.endless(name, e))
    }

    pub(super) fn index(&self, name: &str) -> Result<Option<usize>> {
        let found = self
            .regex
            .captures(name)
            .map_err(|e| self.endless(name, e))?;
        Ok(found.and_then(|c| c.name("idx")?.as_str().parse().ok()))
    }

    fn endless(&self, name: &str, e: fancy_regex::Error) -> Error {
        Error::Invalid(format!(
            "pattern {} on `{name}`: {e}; a simpler expression or a list of module names helps",
            shortened(&self.text)
        ))
    }
}

/// A pattern as errors show it.
fn shortened(text: &str) -> String {
    let mut start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("`{start}`")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Debug for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shortened(&self.text))
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_pythons_do() {
        let name = "model.layers.1.self_attn.q_proj";
        for (text, whole, tail) in [
            (r".*\.(q|v)_proj", true, true),
            ("q_proj", false, true),
            ("attn.q_proj", false, false),
            (r"self_attn\.q_proj", false, true),
            (r"^(?!.*layers\.1\.).*q_proj$", false, false),
            (r"(?!.*layers\.2\.).*q_proj", true, true),
            (r"model.*self_.+", true, true),
            ("model|q_proj", false, true),
        ] {
            assert_eq!(
                Pattern::whole(text).unwrap().matches(name).unwrap(),
                whole,
                "{text}"
            );
            assert_eq!(
                Pattern::tail(text).unwrap().matches(name).unwrap(),
                tail,
                "{text}"
            );
        }
        let layers = Pattern::layer("layers").unwrap();
        assert_eq!(
            layers.index("model.layers.12.experts.3.up").unwrap(),
            Some(12)
        );
        assert_eq!(layers.index("layers.0.up").unwrap(), Some(0));
        assert_eq!(layers.index("model.h.0.up").unwrap(), None);
    }

    #[test]
    fn bombs_are_errors() {
        let deep = "(".repeat(5000) + &")".repeat(5000);
        for text in ["(", deep.as_str(), "((a{1000}){1000}){1000}"] {
            let message = Pattern::whole(text).unwrap_err().to_string();
            assert!(
                message.contains("a list of module names does without"),
                "{message}"
            );
        }
        let endless = Pattern::whole(r"(a*)*(?=b)\1c").unwrap();
        let message = endless.matches(&"a".repeat(40)).unwrap_err().to_string();
        assert!(message.contains("a simpler expression"), "{message}");
    }
}
