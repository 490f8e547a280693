//! A snapshot as bytes, for whoever keeps it longer than this process lives.
//!
//! Only what any guest of the module can take is written: no handles, no half lines.

use serde::{Deserialize, Serialize};

use super::{Image, PIECE, Snapshot, Word};
use crate::core::ids::ModuleHash;
use crate::core::turn::{Limits, Recorder};
use crate::sandbox::wasi::Lines;

/// Pieces of the largest memory that there can be.
const MOST_PIECES: u32 = ((4 << 30_u64) / PIECE as u64) as u32;

#[derive(Serialize, Deserialize)]
struct Stored<'s> {
    module: ModuleHash,
    #[serde(borrow)]
    memories: Vec<Pieces<'s>>,
    globals: Vec<Word>,
    recorder: &'s [u8],
}

/// A memory of so many pieces, and those of them that are not all zero, by their place.
#[derive(Serialize, Deserialize)]
struct Pieces<'s> {
    count: u32,
    #[serde(borrow)]
    kept: Vec<(u32, &'s [u8])>,
}

impl Snapshot {
    /// Whether [`Self::encode`] gives anything.
    pub fn can_be_stored(&self) -> bool {
        self.fits_any_guest() && self.lines.is_empty() && self.recorder.execution.is_as_recorded()
    }

    /// The snapshot as bytes; none if only the guest that it is of could take it, or if
    /// its recorder is not what the history alone says.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if !self.can_be_stored() {
            return None;
        }
        let recorder = self.recorder.save()?;
        let memories = self.memories.iter().map(Pieces::of).collect();
        let stored = Stored { module: self.module, memories, globals: self.globals.clone(), recorder: &recorder };
        Some(postcard::to_stdvec(&stored).expect("a snapshot has no part that postcard cannot write"))
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8], limits: Limits) -> Result<Self, String> {
        let stored: Stored<'_> = match postcard::take_from_bytes(bytes) {
            Ok((stored, [])) => stored,
            Ok((_, rest)) => return Err(format!("{} bytes follow the snapshot", rest.len())),
            Err(error) => return Err(format!("not a snapshot: {error}")),
        };
        Ok(Self {
            module: stored.module,
            guest: u64::MAX,
            memories: stored.memories.iter().map(Pieces::image).collect::<Result<_, _>>()?,
            globals: stored.globals,
            handles: std::collections::BTreeSet::new(),
            lines: Lines::default(),
            recorder: Recorder::of_saved(stored.recorder, limits)?,
        })
    }
}

impl<'s> Pieces<'s> {
    fn of(image: &'s Image) -> Self {
        let kept = (0..).zip(&image.0).filter_map(|(at, piece)| Some((at, &**piece.as_ref()?)));
        Self { count: image.0.len() as u32, kept: kept.collect() }
    }

    fn image(&self) -> Result<Image, String> {
        if self.count > MOST_PIECES {
            return Err(format!("its memory has {} pieces, there are at most {MOST_PIECES}", self.count));
        }
        let mut pieces = vec![None; self.count as usize];
        for (at, piece) in &self.kept {
            match pieces.get_mut(*at as usize) {
                Some(place) if piece.len() == PIECE => *place = Some((*piece).into()),
                _ => return Err(format!("its memory has no piece {at} of {} bytes", piece.len())),
            }
        }
        Ok(Image(pieces))
    }
}
