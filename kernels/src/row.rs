//! Who has a row of a matrix, for kernels that load each row once; see `ptx/held.ptx`.

/// Who has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// A warp, so many elements in each lane's registers.
    Warp(usize),
    /// A block, likewise.
    Block(usize),
    /// A warp, none in registers.
    Walk,
}

impl Row {
    /// The choice for a row: the first that holds it, or the walk.
    pub(crate) const CHOICES: [Row; 7] = [
        Row::Warp(4),
        Row::Warp(8),
        Row::Warp(16),
        Row::Warp(32),
        Row::Block(4),
        Row::Block(8),
        Row::Block(16),
    ];

    /// The longest row that is held in registers.
    pub const MOST: usize = 16 * Self::BLOCK;

    /// Threads of a block that has a row.
    pub(crate) const BLOCK: usize = 512;

    /// Every choice.
    pub(crate) fn all() -> impl Iterator<Item = Row> {
        Self::CHOICES.into_iter().chain([Row::Walk])
    }

    /// For rows of n elements.
    pub fn of(n: usize) -> Row {
        let mut choices = Self::CHOICES.into_iter();
        choices
            .find(|row| n <= row.lanes() * row.held())
            .unwrap_or(Row::Walk)
    }

    pub(crate) fn lanes(self) -> usize {
        match self {
            Row::Warp(_) | Row::Walk => 32,
            Row::Block(_) => Self::BLOCK,
        }
    }

    pub(crate) fn held(self) -> usize {
        match self {
            Row::Warp(held) | Row::Block(held) => held,
            Row::Walk => 0,
        }
    }

    /// A kernel's name with the choice, which the walk has none of.
    pub(crate) fn named(self, kernel: &str) -> String {
        match self {
            Row::Walk => kernel.into(),
            row => format!("{kernel}_{}x{}", row.lanes(), row.held()),
        }
    }
}
