//! Which linears a method adapts.

use deltaw_engine::prelude::*;

use super::pattern::Pattern;

/// A choice among a model's linears.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Those that are one of these in their block.
    Roles(Vec<Role>),
    /// Those whose module ends in one of these names, PEFT's `target_modules`: `query`, `attn.c_attn`, ….
    Modules(Vec<String>),
    /// By PEFT's whole set of rules.
    Selected(Box<Selection>),
}

/// Module names as PEFT's settings give them.
#[derive(Debug, Clone, PartialEq)]
pub enum Names {
    /// The last components of the module's name: `query` is `….attention.query` and not `….subquery`.
    Listed(Vec<String>),
    /// The last letters, whichever component they are of: what (IA)³'s `feedforward_modules` lists.
    Ending(Vec<String>),
    /// The whole name.
    Matching(Pattern),
}

/// PEFT's rules for `target_modules` and what narrows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// `target_modules`; None is `all-linear`: every linear but the output layer.
    pub modules: Option<Names>,
    /// `exclude_modules`: never adapted.
    pub exclude: Names,
    /// `layers_to_transform`: only in these layers; empty for all. Has no effect beside a pattern, as in PEFT.
    pub layers: Vec<usize>,
    /// `layers_pattern`: what comes before a layer's number; empty for anything.
    pub layers_pattern: Vec<Pattern>,
    /// `modules_to_save`: trained and saved whole, and so not adapted.
    pub whole: Vec<String>,
    /// Heads that `all-linear` leaves out beside the output layers of language models.
    pub heads: Vec<String>,
}

/// Output layers of language models under the names of their checkpoints.
const OUTPUTS: [&str; 3] = ["lm_head", "embed_out", "cls.predictions.decoder"];

impl Default for Targets {
    /// Every linear of the blocks: query, key, value, attention output and the feed-forward's.
    fn default() -> Self {
        Targets::Roles(vec![
            Role::Query,
            Role::Key,
            Role::Value,
            Role::AttentionOutput,
            Role::MlpUp,
            Role::MlpGate,
            Role::MlpDown,
        ])
    }
}

impl Targets {
    /// The modules with these names.
    pub fn modules<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Targets::Modules(names.into_iter().map(Into::into).collect())
    }

    /// The modules whose whole name matches an expression in Python's syntax.
    ///
    /// # Errors
    /// No such expression.
    pub fn matching(expression: &str) -> Result<Self> {
        let modules = Some(Names::Matching(Pattern::whole(expression)?));
        Ok(Targets::Selected(Box::new(Selection {
            modules,
            ..Selection::default()
        })))
    }

    /// The chosen sites of a model, in the order of their paths.
    ///
    /// # Errors
    /// None is chosen, or a pattern takes too many steps.
    pub fn of(&self, store: &Store) -> Result<Vec<Site>> {
        let mut chosen = vec![];
        for site in store.sites() {
            if self.chooses(&site)? {
                chosen.push(site);
            }
        }
        if chosen.is_empty() {
            let sites = store.sites();
            let some = sites.iter().filter_map(|s| s.module().ok()).take(4);
            return Err(Error::Invalid(format!(
                "the model has no linear among {self} to adapt; it has {}, …",
                some.collect::<Vec<_>>().join(", ")
            )));
        }
        Ok(chosen)
    }

    /// Whether a site is one of them.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn chooses(&self, site: &Site) -> Result<bool> {
        let Ok(module) = site.module() else {
            return Ok(false);
        };
        match self {
            Targets::Roles(roles) => Ok(roles.contains(&site.role())),
            Targets::Modules(names) => Ok(names.iter().any(|name| ends_in(module, name))),
            Targets::Selected(selection) => selection.chooses(site, module),
        }
    }
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Targets::Roles(roles) => write!(f, "{roles:?}"),
            Targets::Modules(names) => write!(f, "{names:?}"),
            Targets::Selected(selection) => match &selection.modules {
                None => f.write_str("all-linear"),
                Some(Names::Listed(names) | Names::Ending(names)) => write!(f, "{names:?}"),
                Some(Names::Matching(pattern)) => write!(f, "{pattern:?}"),
            },
        }
    }
}

impl Default for Selection {
    /// All linears but the output layer.
    fn default() -> Self {
        Selection {
            modules: None,
            exclude: Names::Listed(vec![]),
            layers: vec![],
            layers_pattern: vec![],
            whole: vec![],
            heads: vec![],
        }
    }
}

impl Selection {
    fn chooses(&self, site: &Site, module: &str) -> Result<bool> {
        let saved = |name: &String| format!(".{module}.").contains(&format!(".{name}."));
        if self.whole.iter().any(saved) || self.exclude.contain(module)? {
            return Ok(false);
        }
        match &self.modules {
            // A convolution is none of PEFT's linear classes.
            None => Ok(site.param()?.shape().len() == 2
                && !OUTPUTS.iter().any(|output| ends_in(module, output))
                && !self.heads.iter().any(|head| head == module)),
            Some(Names::Listed(names)) if names.iter().any(|name| name == module) => Ok(true),
            Some(names @ Names::Listed(_)) => {
                Ok(names.contain(module)? && self.layer_chosen(module)?)
            }
            Some(names) => names.contain(module),
        }
    }

    fn layer_chosen(&self, module: &str) -> Result<bool> {
        if self.layers.is_empty() {
            return Ok(true);
        }
        let mut found = None;
        for pattern in &self.layers_pattern {
            found = found.or(pattern.index(module)?);
        }
        if self.layers_pattern.is_empty() {
            // The first number below two components.
            let parts: Vec<&str> = module.split('.').collect();
            let inner = parts
                .get(2..parts.len().saturating_sub(1))
                .unwrap_or_default();
            found = inner.iter().find_map(|part| part.parse().ok());
        }
        Ok(found.is_some_and(|layer| self.layers.contains(&layer)))
    }
}

impl Names {
    /// Whether a module's name is one of them.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn contain(&self, module: &str) -> Result<bool> {
        match self {
            Names::Listed(names) => Ok(names.iter().any(|name| ends_in(module, name))),
            Names::Ending(names) => Ok(names.iter().any(|name| module.ends_with(name.as_str()))),
            Names::Matching(pattern) => pattern.matches(module),
        }
    }
}

/// Whether a module's last components are `name`.
fn ends_in(module: &str, name: &str) -> bool {
    let head = module.strip_suffix(name);
    head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let store = Store::new(&Device::cpu(), 0);
        for module in [
            "model.layers.0.attn.q",
            "model.layers.1.attn.q",
            "model.layers.1.experts.0.q",
            "model.layers.1.mlp.subq",
            "lm_head",
            "score",
        ] {
            let weight = store
                .at(module)
                .param("weight", &[2, 2], Init::ZEROS)
                .unwrap();
            store.add_site(Site::linear(module, Role::Other, 0, &weight, None));
        }
        let patches = store
            .at("patch")
            .param("weight", &[2, 1, 2, 2], Init::ZEROS)
            .unwrap();
        store.add_site(Site::linear("patch", Role::Other, 0, &patches, None));
        store
    }

    fn chosen(selection: Selection) -> Vec<String> {
        let sites = Targets::Selected(Box::new(selection)).of(&store()).unwrap();
        sites.iter().map(|s| s.path().to_string()).collect()
    }

    /// What `peft.tuners.tuners_utils.check_target_module_exists` answers for the same names.
    #[test]
    fn selections_follow_pefts_rules() {
        let listed = |names: &[&str]| Names::Listed(names.iter().map(|n| n.to_string()).collect());
        let q = || Selection {
            modules: Some(listed(&["q"])),
            ..Selection::default()
        };
        let (first, second, expert) = (
            "model.layers.0.attn.q",
            "model.layers.1.attn.q",
            "model.layers.1.experts.0.q",
        );
        assert_eq!(chosen(q()), [first, second, expert]);
        assert_eq!(
            chosen(Selection {
                exclude: listed(&["attn.q"]),
                ..q()
            }),
            [expert]
        );
        assert_eq!(
            chosen(Selection {
                layers: vec![0],
                ..q()
            }),
            [first]
        );
        assert_eq!(
            chosen(Selection {
                layers: vec![1],
                ..q()
            }),
            [second, expert]
        );
        let experts = vec![Pattern::layer("experts").unwrap()];
        assert_eq!(
            chosen(Selection {
                layers: vec![0],
                layers_pattern: experts,
                ..q()
            }),
            [expert]
        );
        assert_eq!(
            chosen(Selection {
                whole: vec!["experts".into()],
                ..q()
            }),
            [first, second]
        );
        let matching = |text| Some(Names::Matching(Pattern::whole(text).unwrap()));
        assert_eq!(
            chosen(Selection {
                modules: matching(r".*\.0\.q|score"),
                ..q()
            }),
            [expert, "score"]
        );
        let all = Selection {
            heads: vec!["score".into()],
            ..Selection::default()
        };
        assert_eq!(
            chosen(all),
            [first, second, expert, "model.layers.1.mlp.subq"]
        );
        let none = Targets::modules(["mlp"])
            .of(&store())
            .unwrap_err()
            .to_string();
        assert!(
            none.contains("no linear among") && none.contains("it has lm_head"),
            "{none}"
        );
    }
}
