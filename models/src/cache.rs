//! Keys and values of the tokens that attention has seen, so that a further token costs one token's work.

use deltaw_engine::prelude::*;

/// Keys and values `[B, H, T, D]` of one attention, in memory that at least doubles when it is full. For use without a tape
/// ([`no_grad`]).
#[derive(Default)]
pub struct KeyValues {
    /// Memory for more tokens than are there.
    kept: Option<[Tensor; 2]>,
    len: usize,
}

impl KeyValues {
    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the keys and values of further tokens; returns those of all as views, to be dropped before the next call. After an
    /// error the cache is empty.
    ///
    /// # Errors
    /// Other rows, heads or widths than before.
    pub fn extend(&mut self, new: [&Tensor; 2]) -> Result<[Tensor; 2]> {
        let (start, kept) = (std::mem::take(&mut self.len), self.kept.take());
        if new[0].rank() != 4 || new[0].shape() != new[1].shape() {
            return Err(Error::Invalid(format!(
                "cache: keys {:?} and values {:?}, wanted twice [B, H, T, D]",
                new[0].shape(),
                new[1].shape()
            )));
        }
        let end = start + new[0].shape()[2];
        let mut kept = match kept {
            Some(kept) if end <= kept[0].shape()[2] => kept,
            old => {
                let grown = |i: usize| {
                    let mut shape = new[i].shape().to_vec();
                    shape[2] = end.max(2 * start);
                    let mut grown = Tensor::empty(&shape, DType::F32, new[i].device())?;
                    if let Some(old) = &old {
                        grown.overwrite(2, 0, &old[i].narrow(2, 0, start)?)?;
                    }
                    Ok::<_, Error>(grown)
                };
                [grown(0)?, grown(1)?]
            }
        };
        for (kept, new) in kept.iter_mut().zip(new) {
            kept.overwrite(2, start, new)?;
        }
        let all = [kept[0].narrow(2, 0, end)?, kept[1].narrow(2, 0, end)?];
        (self.kept, self.len) = (Some(kept), end);
        Ok(all)
    }

    /// Keeps these rows of the batch, `[rows]` u32, in this order.
    ///
    /// # Errors
    /// A row out of range.
    pub fn select(&mut self, rows: &Tensor) -> Result<()> {
        let Some(kept) = &mut self.kept else {
            return Ok(());
        };
        for kept in kept {
            *kept = select_rows(&kept.narrow(2, 0, self.len)?, rows)?;
        }
        Ok(())
    }
}

/// These entries of the first axis, in this order.
pub(crate) fn select_rows(x: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    let flat = x.reshape(&[shape[0], x.len() / shape[0].max(1)])?;
    shape[0] = rows.len();
    flat.gather_rows(rows)?.reshape(&shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens `from..to` of two rows with one head of width 2; an element says which it is.
    fn tokens(from: usize, to: usize) -> Tensor {
        let values: Vec<f32> = (0..2)
            .flat_map(|row| (from..to).map(move |t| (100 * row + t) as f32))
            .flat_map(|v| [v, -v])
            .collect();
        Tensor::from_slice(&values, &[2, 1, to - from, 2], &Device::cpu()).unwrap()
    }

    #[test]
    fn what_went_in_comes_out_in_order() {
        let mut cache = KeyValues::default();
        let mut from = 0;
        for to in [3, 4, 5, 6, 7, 13] {
            let new = tokens(from, to);
            let [k, v] = cache.extend([&new, &new.neg().unwrap()]).unwrap();
            let want = tokens(0, to);
            assert_eq!(k.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
            let negated = want.neg().unwrap().to_vec::<f32>().unwrap();
            assert_eq!(v.to_vec::<f32>().unwrap(), negated);
            from = to;
        }
        let last = Tensor::from_slice(&[1u32], &[1], &Device::cpu()).unwrap();
        cache.select(&last).unwrap();
        let new = tokens(13, 14).narrow(0, 1, 1).unwrap();
        let [k, _] = cache.extend([&new, &new]).unwrap();
        let want = tokens(0, 14).narrow(0, 1, 1).unwrap();
        assert_eq!(k.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap());
        assert_eq!(cache.len(), 14);
        assert!(cache.extend([&tokens(14, 15), &tokens(14, 15)]).is_err());
        assert!(cache.is_empty(), "an error empties it");
        let flat = Tensor::from([1.0]);
        assert!(cache.extend([&flat, &flat]).is_err());
    }
}
