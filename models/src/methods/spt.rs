//! SPT (He et al. 2023), its unstructured part: the weights to which the task's loss is most sensitive train, the others do not.
//!
//! ```text
//! s_ij = Σ_batches G_ij², G the loss' gradient of the untouched base: what a step along G gains, to first order (their eq. 3)
//! ΔW_ij trains where s_ij is among the largest Σ r·(m + n) of all matrices together, and is 0 elsewhere
//! ```
//!
//! As many numbers train as LoRA of rank r has on the same sites. They are found once, before the first step, by streaming the
//! frozen matrices' gradients; of the paper this leaves out that matrices with more of them than LoRA would have get LoRA.

use std::sync::Arc;

use deltaw_engine::observe::Squares;
use deltaw_engine::ops::sparse::Sparse;
use deltaw_engine::prelude::*;
use serde_json::json;

use super::adapter::PREFIX;
use super::produced::Produced;
use super::{Adapted, Adapter, Attached, Factor, Form, Method, Targets};

/// Weights located by their sensitivity.
#[derive(Debug, Clone, PartialEq)]
pub struct Spt {
    /// As many weights as LoRA of this rank has numbers.
    pub rank: usize,
    /// Training batches whose gradients are summed up.
    pub batches: usize,
    /// The places of each module that are known already, from a file.
    pub located: Option<Vec<(String, Sparse)>>,
    /// Which linears.
    pub targets: Targets,
}

impl Spt {
    /// The count of LoRA's numbers at `rank`, located by eight batches.
    pub fn rank(rank: usize) -> Self {
        Spt {
            rank,
            batches: 8,
            located: None,
            targets: Targets::default(),
        }
    }

    /// The places that an adapter's file holds, by module.
    pub(super) fn places_of(adapter: &Adapter) -> Result<Vec<(String, Sparse)>> {
        let own = adapter.weights.iter().filter_map(|(name, places)| {
            let module = name.strip_prefix(PREFIX)?.strip_suffix(".spt_index")?;
            Some((module, places))
        });
        own.map(|(module, places)| Ok((module.into(), Sparse::new(places.to_vec()?)?)))
            .collect()
    }
}

impl Method for Spt {
    fn name(&self) -> String {
        format!("spt r={}", self.rank)
    }

    fn attach(&self, store: &Store, heads: &[&str]) -> Result<Box<dyn Attached>> {
        if self.rank == 0 || self.batches == 0 {
            return Err(Error::Invalid(format!(
                "spt: the count of rank {}, located by {} batches; wanted at least 1 of each",
                self.rank, self.batches
            )));
        }
        let settings = json!({ "peft_type": "SPT", "r": self.rank, "batches": self.batches });
        let mut located = Located {
            method: self.clone(),
            sites: self.targets.of(store)?,
            adapted: Adapted::new(store, heads, settings),
        };
        if let Some(places) = &self.located {
            for site in std::mem::take(&mut located.sites) {
                let own = places.iter().find(|(module, _)| module == site.path());
                own.map_or(Ok(()), |(_, places)| located.place(&site, places.clone()))?;
            }
        }
        Ok(Box::new(located))
    }
}

struct Located {
    method: Spt,
    /// Those without their places yet.
    sites: Vec<Site>,
    adapted: Adapted,
}

impl Located {
    fn place(&mut self, site: &Site, places: Sparse) -> Result<()> {
        let count = places.places().len();
        let path = self.adapted.store.at(site.path());
        let values = path.param("spt_values", &[count], Init::ZEROS)?;
        let factors = vec![Factor::new("spt_values", Form::Whole, &values)];
        let delta = Produced {
            producer: places.clone(),
            params: vec![values],
        };
        self.adapted.add(site, Arc::new(delta), factors)?;
        let key = format!("{PREFIX}{}.spt_index", site.path());
        self.adapted.share(&key, move || {
            Tensor::from_slice(places.places(), &[count], &Device::cpu())
        });
        Ok(())
    }

    /// `Σ G²` of every matrix that holds sites, after some passes.
    fn squares(
        &self,
        pass: &mut dyn FnMut() -> Result<Gradients>,
    ) -> Result<Vec<(Param, Arc<Squares>)>> {
        let mut seen: Vec<(Param, Arc<Squares>)> = vec![];
        for site in &self.sites {
            let param = site.param()?;
            if seen.iter().all(|(other, _)| other.id() != param.id()) {
                let squares = Arc::new(Squares::new(param.len()));
                param.set_training(Training::Observed(squares.clone()));
                seen.push((param.clone(), squares));
            }
        }
        let passes = (0..self.method.batches).try_for_each(|_| pass().map(drop));
        seen.iter().for_each(|(param, _)| param.set_trained(false));
        passes.map(|()| seen)
    }
}

/// The scores of a site's own weights, by rows.
fn scores(site: &Site, squares: &[f64]) -> Result<Vec<f64>> {
    let (rows, n) = (site.rows()?, site.in_features()?);
    if !site.transposed()? {
        return Ok(squares[rows.start * n..rows.end * n].to_vec());
    }
    let stored = squares.len() / n.max(1);
    Ok(rows
        .flat_map(|row| (0..n).map(move |column| squares[column * stored + row]))
        .collect())
}

/// The places of the `count` largest numbers of several lists together, increasing; of equal ones the first.
fn largest(lists: &[Vec<f64>], count: usize) -> Vec<Vec<u32>> {
    let mut all: Vec<(f64, usize, u32)> = vec![];
    for (list, scores) in lists.iter().enumerate() {
        all.extend((0..).zip(scores).map(|(at, score)| (*score, list, at)));
    }
    let count = count.min(all.len());
    if count < all.len() {
        all.select_nth_unstable_by(count, |a, b| {
            b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        });
    }
    let mut places = vec![vec![]; lists.len()];
    for (_, list, at) in &all[..count] {
        places[*list].push(*at);
    }
    places.iter_mut().for_each(|places| places.sort_unstable());
    places
}

impl Attached for Located {
    fn adapted(&self) -> &Adapted {
        &self.adapted
    }

    fn prepare(&mut self, pass: &mut dyn FnMut() -> Result<Gradients>) -> Result<()> {
        if self.sites.is_empty() {
            return Ok(());
        }
        let seen = self.squares(pass)?;
        let (mut lists, mut count) = (vec![], 0);
        for site in &self.sites {
            let id = site.param()?.id();
            let of_param = seen.iter().find(|(param, _)| param.id() == id);
            let squares = of_param.map_or(vec![], |(_, squares)| squares.entries());
            lists.push(scores(site, &squares)?);
            count += self.method.rank * (site.out_features()? + site.in_features()?);
        }
        drop(seen);
        let chosen = largest(&lists, count);
        for (site, places) in std::mem::take(&mut self.sites).iter().zip(chosen) {
            if !places.is_empty() {
                self.place(site, Sparse::new(places)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_of_several_lists() {
        let lists = [vec![1.0, 5.0, 2.0], vec![5.0, 0.0, 2.0]];
        assert_eq!(largest(&lists, 3), [vec![1, 2], vec![0]]);
        assert_eq!(largest(&lists, 9), [vec![0, 1, 2], vec![0, 1, 2]]);
        assert_eq!(largest(&lists, 0), [vec![0u32; 0], vec![]]);
    }
}
