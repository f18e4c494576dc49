//! PTX texts from templates.
//!
//! A [`Template`] is a main file and the fragments it imports, in minijinja's syntax; the values that it is expanded with
//! are visible in all of them. Beyond the built-in filters there are
//!
//! ```text
//! x | f32      the number as a PTX literal: 1.0 | f32 = 0f3F800000; f64 likewise
//! xor(i, j)    exclusive or of two whole numbers, for permuted addresses
//! ```
//!
//! A vector is written `{ %a, %b}`: `{%` opens a tag.
//!
//! Every line of the expanded text remembers the template's line that it comes from ([`Ptx::origin`]), the innermost one
//! where macros nest; blank lines are left out.

use minijinja::{Environment, Value};

use crate::KernelError;

/// Between a line and its origin while the engine expands; occurs in no PTX.
const MARK: char = '\u{1f}';

/// A family's template.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Name and text of the main file, then of its fragments.
    pub files: &'static [(&'static str, &'static str)],
}

/// An expanded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptx {
    text: String,
    origins: Vec<String>,
}

impl Ptx {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a line of the text, counted from 1, comes from, as `gemm.ptx:57`.
    pub fn origin(&self, line: usize) -> Option<&str> {
        self.origins.get(line.checked_sub(1)?).map(String::as_str)
    }

    /// The lines with their origins.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text
            .lines()
            .zip(self.origins.iter().map(String::as_str))
    }
}

impl Template {
    /// Expands the template.
    ///
    /// # Errors
    /// [`KernelError::Template`] with file and line.
    pub fn expand(&self, values: impl serde::Serialize) -> Result<Ptx, KernelError> {
        let expanded = self.render(values).map_err(|error| KernelError::Template {
            template: error.name().unwrap_or(self.files[0].0).into(),
            line: error.line().unwrap_or(0),
            error,
        })?;
        let lines = expanded.lines().filter_map(|line| {
            let (line, mark) = line.split_once(MARK)?;
            let origin = mark.split(MARK).next()?;
            (!line.trim().is_empty()).then_some((line.trim_end(), origin))
        });
        let (mut text, mut origins) = (String::new(), Vec::new());
        for (line, origin) in lines {
            text.push_str(line);
            text.push('\n');
            origins.push(origin.to_owned());
        }
        Ok(Ptx { text, origins })
    }

    fn render(&self, values: impl serde::Serialize) -> Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.add_filter("f32", |x: f64| format!("0f{:08X}", (x as f32).to_bits()));
        environment.add_filter("f64", |x: f64| format!("0d{:016X}", x.to_bits()));
        environment.add_function("xor", |i: u32, j: u32| i ^ j);
        for (name, source) in self.files {
            environment.add_template_owned(*name, marked(name, source))?;
        }
        // As globals the values are visible in imported macros too.
        let values = Value::from(minijinja::value::Serde(values));
        for key in values.try_iter()? {
            environment.add_global(key.to_string(), values.get_item(&key)?);
        }
        environment.get_template(self.files[0].0)?.render(())
    }
}

/// The source with a mark and its origin at the end of each line that does not end within a tag.
fn marked(name: &str, source: &str) -> String {
    let mut out = String::with_capacity(2 * source.len());
    let mut open: Option<&str> = None;
    for (number, line) in source.lines().enumerate() {
        let mut rest = line;
        loop {
            rest = match open {
                Some(close) => match rest.split_once(close) {
                    Some((_, after)) => {
                        open = None;
                        after
                    }
                    None => break,
                },
                None => match rest.match_indices('{').find_map(|(i, _)| {
                    let close = match rest.as_bytes().get(i + 1)? {
                        b'{' => "}}",
                        b'%' => "%}",
                        b'#' => "#}",
                        _ => return None,
                    };
                    Some((i, close))
                }) {
                    Some((i, close)) => {
                        open = Some(close);
                        &rest[i + 2..]
                    }
                    None => break,
                },
            };
        }
        out.push_str(line);
        if open.is_none() {
            out.push_str(&format!("{MARK}{name}:{}{MARK}", number + 1));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: Template = Template {
        files: &[
            (
                "main.ptx",
                "{% import 'part.ptx' as part %}\n{# a note\n of two lines #}\nfirst {{ n }};\n{% for i in range(2) %}\n{{ part.line(i) }}\n{% endfor %}\nlast;\n",
            ),
            (
                "part.ptx",
                "{% macro line(i) %}\n    mov %r{{ i }}, {{ (n + 0.5) | f32 }};\n    xor {{ xor(5, 3) }};\n{% endmacro %}\n",
            ),
        ],
    };

    #[test]
    fn lines_know_where_they_come_from() {
        let ptx = TEMPLATE
            .expand(std::collections::BTreeMap::from([("n", 1)]))
            .unwrap();
        let lines: Vec<_> = ptx.lines().collect();
        assert_eq!(
            lines,
            [
                ("first 1;", "main.ptx:4"),
                ("    mov %r0, 0f3FC00000;", "part.ptx:2"),
                ("    xor 6;", "part.ptx:3"),
                ("    mov %r1, 0f3FC00000;", "part.ptx:2"),
                ("    xor 6;", "part.ptx:3"),
                ("last;", "main.ptx:8"),
            ]
        );
        assert_eq!(ptx.origin(2), Some("part.ptx:2"));
        assert_eq!((ptx.origin(0), ptx.origin(7)), (None, None));
    }

    #[test]
    fn a_missing_value_is_reported_with_its_line() {
        let error = TEMPLATE.expand(std::collections::BTreeMap::<&str, u32>::new());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("main.ptx:4: undefined"), "{error}");
    }
}
