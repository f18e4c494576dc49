//! Which linears a method adapts.

use deltaw_engine::prelude::*;

/// A choice among a model's linears.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Those that are one of these in their block.
    Roles(Vec<Role>),
    /// Those whose module ends in one of these names, PEFT's `target_modules`: `query`, `attn.c_attn`, ….
    Modules(Vec<String>),
}

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

    /// The chosen sites of a model, in the order of their paths.
    ///
    /// # Errors
    /// None is chosen.
    pub fn of(&self, store: &Store) -> Result<Vec<Site>> {
        let sites: Vec<Site> = store
            .sites()
            .into_iter()
            .filter(|site| self.chooses(site))
            .collect();
        if sites.is_empty() {
            return Err(Error::Invalid(format!(
                "the model has no linear among {self:?} to adapt"
            )));
        }
        Ok(sites)
    }

    fn chooses(&self, site: &Site) -> bool {
        match (self, site.module()) {
            (Targets::Roles(roles), Ok(_)) => roles.contains(&site.role()),
            (Targets::Modules(names), Ok(module)) => names.iter().any(|name| {
                let head = module.strip_suffix(name.as_str());
                head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }),
            (_, Err(_)) => false,
        }
    }
}
