//! Uniform numbers of PyTorch's CPU generator, a Mersenne twister (Matsumoto & Nishimura 1998, MT19937): PEFT's random bases,
//! of which files may hold the seed alone.

/// The generator that `torch.Generator().manual_seed(seed)` is.
pub(super) struct TorchRandom {
    state: [u32; SIZE],
    next: usize,
}

const SIZE: usize = 624;
const SHIFT: usize = 397;

impl TorchRandom {
    pub fn new(seed: u64) -> Self {
        let mut state = [seed as u32; SIZE];
        for i in 1..SIZE {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        TorchRandom { state, next: SIZE }
    }

    fn turn(&mut self) {
        for k in 0..SIZE {
            let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % SIZE] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[k] = self.state[(k + SHIFT) % SIZE] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn word(&mut self) -> u32 {
        if self.next == SIZE {
            self.turn();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `torch.rand`: multiples of 2⁻²⁴ in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.word() & 0xff_ffff) as f32 / 16_777_216.0
    }

    /// `count` numbers of `tensor.uniform_(-bound, bound)`.
    pub fn uniform(&mut self, bound: f64, count: usize) -> Vec<f32> {
        let (low, high) = (-bound as f32, bound as f32);
        (0..count)
            .map(|_| self.unit().mul_add(high - low, low))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pytorchs() {
        // `torch.empty(700).uniform_(-0.3747, 0.3747, generator=g)`, then `torch.rand(2, generator=g)`, seed 7.
        let mut random = TorchRandom::new(7);
        let got = random.uniform(0.3747, 700);
        let bits = [0, 1, 2, 699].map(|i: usize| got[i].to_bits());
        assert_eq!(bits, [0x3cd66477, 0xbe672255, 0x3df45a81, 0x3e1ae324]);
        let next = [random.unit(), random.unit()].map(f32::to_bits);
        assert_eq!(next, [0x3f1b0626, 0x3ee9eace]);
    }
}
