//! Randomness that follows from a seed.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One of several streams that are drawn from one seed. Most executions draw nothing from
/// theirs, so the generator, which holds some numbers ahead, is made by the first draw.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    seed: [u8; 32],
    number: u64,
    drawn: Option<Box<ChaCha12Rng>>,
}

/// What is stored of a stream: where it stands.
#[derive(Serialize, Deserialize)]
struct Place {
    seed: [u8; 32],
    number: u64,
    /// Words of 32 bits that were drawn.
    at: u128,
}

impl Stream {
    /// Stream `number`, from its beginning.
    pub(super) fn new(seed: [u8; 32], number: u64) -> Self {
        Self { seed, number, drawn: None }
    }

    /// Draws all of `bytes`.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.generator().fill_bytes(bytes);
    }

    /// Draws 64 bits.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.generator().next_u64()
    }

    fn generator(&mut self) -> &mut ChaCha12Rng {
        self.drawn.get_or_insert_with(|| {
            let mut generator = ChaCha12Rng::from_seed(self.seed);
            generator.set_stream(self.number);
            Box::new(generator)
        })
    }
}

impl Serialize for Stream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at = self.drawn.as_ref().map_or(0, |generator| generator.get_word_pos());
        Place { seed: self.seed, number: self.number, at }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = Place::deserialize(deserializer)?;
        let mut stream = Self::new(place.seed, place.number);
        if place.at > 0 {
            stream.generator().set_word_pos(place.at);
        }
        Ok(stream)
    }
}
