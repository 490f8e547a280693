//! Floors: the same bytes with nothing of the engine around them.

use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::core::ids::Hash;
use crate::core::turn::TurnRecord;
use crate::store::redb::Stats;

/// What a floor took.
pub(super) struct Floor {
    pub(super) seconds: f64,
    pub(super) cpu_us: f64,
    pub(super) file_bytes: u64,
}

const LOG: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");

/// As many commits of redb as `like` has, of rows of its average size, each with its sync.
pub(super) fn bare_commits(path: &Path, like: &Stats) -> anyhow::Result<Floor> {
    let row = average_row(like);
    let file = redb::Database::create(path)?;
    let floor = measure(path, || {
        for number in 0..like.commits {
            let write = file.begin_write()?;
            write.open_table(LOG)?.insert(number, row.as_slice())?;
            write.commit()?;
        }
        Ok(())
    });
    drop(file);
    floor
}

/// As many rows of that size at the end of a file, each with its sync.
pub(super) fn log_append(path: &Path, like: &Stats) -> anyhow::Result<Floor> {
    let row = average_row(like);
    let mut file = std::fs::File::create(path)?;
    measure(path, || {
        for _ in 0..like.commits {
            file.write_all(&row)?;
            file.sync_data()?;
        }
        Ok(())
    })
}

/// A file to which rows are appended as they come: what comes while one sync runs is written
/// together and has one sync.
pub(super) struct BareLog(Sender<Appended>);

type Appended = oneshot::Sender<std::io::Result<()>>;

impl BareLog {
    /// A file of its own at `path`, for rows of that size.
    pub(super) fn create(path: &Path, row_bytes: usize) -> anyhow::Result<Self> {
        let mut file = std::fs::File::create(path)?;
        let (rows, coming): (_, Receiver<Appended>) = channel();
        std::thread::spawn(move || {
            while let Ok(first) = coming.recv() {
                let waiting: Vec<_> = std::iter::once(first).chain(coming.try_iter()).collect();
                let written = file.write_all(&vec![0xda; row_bytes * waiting.len()]).and_then(|()| file.sync_data());
                for one in waiting {
                    let _ = one.send(written.as_ref().map_err(|error| error.kind().into()).copied());
                }
            }
        });
        Ok(Self(rows))
    }

    /// Until a row more is durable.
    pub(super) async fn append(&self) -> anyhow::Result<()> {
        let (appended, durable) = oneshot::channel();
        self.0.send(appended)?;
        Ok(durable.await??)
    }
}

fn average_row(like: &Stats) -> Vec<u8> {
    vec![0xda; (like.log_bytes / like.commits.max(1)) as usize]
}

fn measure(path: &Path, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Floor> {
    let (cpu, clock) = (super::process::cpu_us(), Instant::now());
    work()?;
    let (seconds, cpu_us) = (clock.elapsed().as_secs_f64(), super::process::cpu_us() - cpu);
    Ok(Floor { seconds, cpu_us, file_bytes: std::fs::metadata(path)?.len() })
}

/// Events per second of decoding and hashing turns alone.
pub(super) fn decode_rate(records: &[TurnRecord]) -> f64 {
    let encoded: Vec<_> = records.iter().map(TurnRecord::encode).collect();
    let clock = Instant::now();
    let mut events = 0;
    for bytes in &encoded {
        let hash = Hash::of(bytes);
        events += TurnRecord::decode(bytes).map_or(0, |record| record.events.len());
        std::hint::black_box(hash);
    }
    events as f64 / clock.elapsed().as_secs_f64()
}
