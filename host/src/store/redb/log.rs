//! The log: appended by each commit, folded behind, trimmed after that.
//!
//! It decides when which part of a generation is folded. Invariant: a log row is
//! removed only when every turn in it is folded, in an earlier transaction or the
//! same; until then, opening the store finds it and folds it again.

use std::ops::RangeInclusive;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, WriteTransaction};

use super::Options;
use super::error::Doing;
use super::fold::fold_slice;
use super::overlay::{Generation, Held, Overlay};
use super::payloads::{Reader, Shelf};
use super::tables::{self, LOG};
use crate::core::ids::InstanceId;
use crate::store::{Batch, StoreError};

/// Rows that a commit removes at most, so that none takes long.
const TRIM_PER_COMMIT: u64 = 512;

/// Turns in one transaction while a store is opened.
const TURNS_PER_REPLAY: usize = 16 << 10;

/// Where appending, folding and trimming stand.
#[derive(Debug)]
pub(super) struct Log {
    next: u64,
    folding: Option<Folding>,
    /// The first commit that is still in the log.
    first: u64,
    /// Commits before this one are folded.
    folded_before: u64,
    /// Turns in the log that are not yet in a generation being folded.
    active: Load,
}

#[derive(Debug)]
struct Folding {
    generation: Arc<Generation>,
    /// The last instance that is folded.
    after: Option<InstanceId>,
    /// The first commit after the generation.
    end: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    turns: usize,
    bytes: usize,
}

impl Log {
    /// Folds all that the file's log holds and empties it. Also returns how many
    /// generations that took.
    pub(super) fn replay(database: &Database, options: &Options) -> Result<(Self, u64), StoreError> {
        let mut next = 1;
        let mut folds = 0;
        loop {
            let (held, commits) = read_generation(database, options, next)?;
            let Some(commits) = commits else { break };
            next = commits.end() + 1;
            fold_all(database, options, &held, commits)?;
            folds += 1;
        }
        Ok((Self { next, folding: None, first: next, folded_before: next, active: Load::default() }, folds))
    }

    /// The number of the next commit.
    pub(super) fn next_commit(&self) -> u64 {
        self.next
    }

    /// Whether a generation is not folded to its end.
    pub(super) fn is_folding(&self) -> bool {
        self.folding.is_some()
    }

    /// Begins to fold `generation`, which ends with the last commit.
    pub(super) fn fold(&mut self, generation: Arc<Generation>) {
        self.folding = Some(Folding { generation, after: None, end: self.next });
        self.active = Load::default();
    }

    /// Makes `batch` durable as the next commit and, in the same transaction,
    /// folds and trims a little. Returns the size of its row.
    pub(super) fn append(
        &mut self,
        database: &Database,
        options: &Options,
        batch: &Batch,
    ) -> Result<usize, StoreError> {
        let transaction = database.begin_write().doing("append")?;
        let row = append_row(&transaction, options, self.next, batch)?;
        let bytes = batch.turns.iter().map(|turn| turn.bytes.len()).sum();
        self.active.turns += batch.turns.len();
        self.active.bytes += bytes;
        let folded = self.fold_some(&transaction, options, batch.turns.len(), bytes)?;
        let first = self.trim_some(&transaction)?;
        transaction.commit().doing("append")?;

        self.next += 1;
        self.first = first;
        match (folded, &mut self.folding) {
            (Some(last), Some(folding)) => folding.after = Some(last),
            (None, _) => {
                if let Some(folding) = self.folding.take() {
                    self.folded_before = folding.end;
                }
            }
            (Some(_), None) => {}
        }
        Ok(row)
    }

    /// Folds a slice for a commit of that size; returns its last instance, none at the end.
    fn fold_some(
        &self,
        transaction: &WriteTransaction,
        options: &Options,
        turns: usize,
        bytes: usize,
    ) -> Result<Option<InstanceId>, StoreError> {
        let Some(folding) = &self.folding else { return Ok(None) };
        let is_behind = self.active.turns >= options.fold_at_turns || self.active.bytes >= options.fold_at_bytes;
        let (turns, bytes) = if is_behind {
            (usize::MAX, usize::MAX)
        } else {
            // Bytes follow turns at the same pace, with room for one large turn.
            (options.fold_per_commit.max(2 * turns), (1 << 20).max(2 * bytes))
        };
        fold_slice(transaction, options, &folding.generation.read(), folding.after.as_ref(), turns, bytes)
    }

    /// Folds all that `held` has and empties the log; [`Self::emptied`] once that is
    /// committed.
    pub(super) fn fold_rest(
        &self,
        transaction: &WriteTransaction,
        options: &Options,
        held: &Overlay,
    ) -> Result<(), StoreError> {
        for generation in held.frozen.iter().chain([&held.active]) {
            fold_slice(transaction, options, &generation.read(), None, usize::MAX, usize::MAX)?;
        }
        if self.first < self.next { trim(transaction, self.first..=self.next - 1) } else { Ok(()) }
    }

    /// Nothing is in the log any more, and nothing is being folded.
    pub(super) fn emptied(&mut self) {
        self.folding = None;
        (self.first, self.folded_before) = (self.next, self.next);
        self.active = Load::default();
    }

    /// Removes some of the folded rows; returns the first one left.
    fn trim_some(&self, transaction: &WriteTransaction) -> Result<u64, StoreError> {
        let end = self.folded_before.min(self.first + TRIM_PER_COMMIT);
        if self.first < end {
            trim(transaction, self.first..=end - 1)?;
        }
        Ok(end)
    }
}

fn append_row(
    transaction: &WriteTransaction,
    options: &Options,
    number: u64,
    batch: &Batch,
) -> Result<usize, StoreError> {
    let cuts = cuts(transaction, options, batch)?;
    let mut log = transaction.open_table(LOG).doing("append")?;
    let len = tables::log_row_len(&batch.turns, &cuts);
    if !tables::is_plain_log_row(&options.codec, len) {
        let row = tables::coded_log_row(&options.codec, number, &batch.turns, &cuts, len);
        log.insert(number, row.as_slice()).doing("append")?;
        return Ok(row.len());
    }
    let mut row = log.insert_reserve(number, len).doing("append")?;
    tables::encode_log_row(number, &batch.turns, &cuts, row.as_mut());
    Ok(len)
}

/// Keeps the large payloads of a batch, in the transaction that brings it.
fn cuts(transaction: &WriteTransaction, options: &Options, batch: &Batch) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    let mut cuts = Vec::new();
    // Nothing is allocated for a batch without a large turn: the usual one.
    let Some(first) = batch.turns.iter().position(|turn| turn.bytes.len() > options.payloads_above) else {
        return Ok(cuts);
    };
    cuts.resize(first, None);
    let mut shelf = Shelf::new(transaction, options);
    for turn in &batch.turns[first..] {
        cuts.push(shelf.cut(&turn.instance, &turn.bytes)?);
    }
    Ok(cuts)
}

fn trim(transaction: &WriteTransaction, commits: RangeInclusive<u64>) -> Result<(), StoreError> {
    let mut log = transaction.open_table(LOG).doing("trim the log")?;
    log.retain_in(commits, |_, _| false).doing("trim the log")
}

/// Reads a generation's worth of commits from number `from` on.
fn read_generation(
    database: &Database,
    options: &Options,
    from: u64,
) -> Result<(Held, Option<RangeInclusive<u64>>), StoreError> {
    let mut held = Held::default();
    let mut commits: Option<RangeInclusive<u64>> = None;
    let trees = database.begin_read().doing("read the log")?;
    let log = trees.open_table(LOG).doing("read the log")?;
    let mut payloads = Reader::new(&trees, &options.codec);
    for row in log.range(from..).doing("read the log")? {
        let (number, row) = row.doing("read the log")?;
        let number = number.value();
        if let Some(before) = commits.as_ref().filter(|commits| commits.end() + 1 != number) {
            let what = format!("commit {} of the log", before.end() + 1);
            return Err(tables::corrupt(what, format!("the next commit that is stored is {number}")));
        }
        let fetch = &mut |instance: &InstanceId, hash| payloads.get(instance, hash);
        let turns = tables::decode_log_row(&options.codec, number, row.value(), fetch)?;
        turns.iter().for_each(|turn| held.push(number, turn));
        commits = Some(commits.map_or(number, |commits| *commits.start())..=number);
        if held.turns >= options.fold_at_turns || held.bytes >= options.fold_at_bytes {
            break;
        }
    }
    Ok((held, commits))
}

/// Folds a generation and removes its rows, in transactions of bounded size.
fn fold_all(
    database: &Database,
    options: &Options,
    held: &Held,
    commits: RangeInclusive<u64>,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let transaction = database.begin_write().doing("fold the log")?;
        let last = fold_slice(&transaction, options, held, after.as_ref(), TURNS_PER_REPLAY, usize::MAX)?;
        if last.is_none() {
            trim(&transaction, commits.clone())?;
        }
        transaction.commit().doing("fold the log")?;
        match last {
            Some(last) => after = Some(last),
            None => return Ok(()),
        }
    }
}
