//! The axes of a reduction, adjacent ones together.

use crate::layout::Dims;

/// Groups of adjacent axes that are all reduced or all kept: sizes, and which.
pub(super) struct Groups(Vec<(usize, bool)>);

/// One group to reduce: `[outer, n, inner] → [outer, inner]`.
pub(super) struct Step {
    pub sizes: [usize; 3],
    /// Whether no other group is left.
    pub last: bool,
}

impl Groups {
    /// Reduced is what has size 1 in `out`.
    pub fn new(x: &Dims, out: &Dims) -> Self {
        let mut groups: Vec<(usize, bool)> = vec![];
        for (n, kept) in x.iter().zip(out.iter()).filter(|(n, _)| **n != 1) {
            match groups.last_mut() {
                Some((size, reduced)) if *reduced == (n != kept) => *size *= n,
                _ => groups.push((*n, n != kept)),
            }
        }
        Groups(groups)
    }
}

impl Iterator for Groups {
    type Item = Step;

    /// The last group to reduce that is left.
    fn next(&mut self) -> Option<Step> {
        let groups = &mut self.0;
        let i = groups.iter().rposition(|(_, reduced)| *reduced)?;
        let size = |part: &[(usize, bool)]| part.iter().map(|(n, _)| n).product::<usize>();
        let sizes = [size(&groups[..i]), groups[i].0, size(&groups[i + 1..])];
        groups.remove(i);
        let last = !groups.iter().any(|(_, reduced)| *reduced);
        Some(Step { sizes, last })
    }
}
