//! The network between the two nodes: adverts as datagrams that are lost, doubled, late and out of order, and the link as an
//! ordered stream, each direction by itself.

use super::rng::Rng;
use super::{MICRO, MILLI};

/// One run's network.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// Of a hundred datagrams; of a hundred messages of the link that come 200 ms late, by a repetition of TCP.
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    /// The shortest and the longest delay.
    pub(crate) delay: (u64, u64),
    /// Indexed by the sender.
    pub(crate) adverts_cut: [bool; 2],
    pub(crate) link_cut: [bool; 2],
    /// When the last message of the link will arrive: nothing overtakes.
    link_last: [u64; 2],
    /// When a datagram was lost last, whyever.
    pub(crate) last_drop: u64,
}

impl Net {
    pub(crate) fn new(delay: (u64, u64)) -> Self {
        Self {
            loss: 0,
            duplicates: 0,
            delay,
            adverts_cut: [false; 2],
            link_cut: [false; 2],
            link_last: [0; 2],
            last_drop: 0,
        }
    }

    pub(crate) fn cut(&self) -> bool {
        self.adverts_cut.iter().chain(&self.link_cut).any(|cut| *cut)
    }

    fn delay(&self, rng: &mut Rng) -> u64 {
        // Mostly short, as networks are.
        let (low, high) = self.delay;
        let high = if rng.percent(80) { (low + 500 * MICRO).min(high) } else { high };
        rng.between(low, high)
    }

    /// When an advert arrives: not at all, once or twice.
    pub(crate) fn advert(&mut self, now: u64, from: usize, rng: &mut Rng) -> [Option<u64>; 2] {
        if self.adverts_cut[from] || rng.percent(self.loss) {
            self.last_drop = now;
            return [None; 2];
        }
        let again = rng.percent(self.duplicates).then(|| now + self.delay(rng));
        [Some(now + self.delay(rng)), again]
    }

    /// When a message of the link arrives.
    pub(crate) fn message(&mut self, now: u64, from: usize, rng: &mut Rng) -> Option<u64> {
        if self.link_cut[from] {
            return None;
        }
        let late = if rng.percent(self.loss) { 200 * MILLI } else { 0 };
        let at = (now + self.delay(rng) + late).max(self.link_last[from]);
        self.link_last[from] = at;
        Some(at)
    }
}
