//! The log of format 1, a table with a row for each commit.
//!
//! A file that such a host left has rows in it, and so has one that was restored from a
//! backup of that time. They are folded when the file is opened; nothing is ever added.

use std::ops::RangeInclusive;

use redb::{Database, ReadableDatabase, WriteTransaction};

use super::Options;
use super::error::Doing;
use super::fold::fold_all;
use super::overlay::Held;
use super::payloads::Reader;
use super::tables::{self, LOG};
use crate::core::ids::InstanceId;
use crate::store::StoreError;

/// Folds all that the table holds and empties it. Returns how many generations that took.
pub(super) fn fold_table(database: &Database, options: &Options) -> Result<u64, StoreError> {
    let mut folds = 0;
    let mut next = 1;
    loop {
        let (held, commits) = read_generation(database, options, next)?;
        let Some(commits) = commits else { return Ok(folds) };
        next = commits.end() + 1;
        let trim = |transaction: &WriteTransaction| {
            let mut log = transaction.open_table(LOG).doing("trim the log")?;
            log.retain_in(commits.clone(), |_, _| false).doing("trim the log")
        };
        fold_all(database, options, &held, trim, &mut |_| ())?;
        folds += 1;
    }
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
        let turns = tables::decode_log_row(&options.codec, number, &number.to_le_bytes(), row.value(), fetch)?;
        turns.iter().for_each(|turn| held.push(number, turn));
        commits = Some(commits.map_or(number, |commits| *commits.start())..=number);
        if held.turns >= options.fold_at_turns || held.bytes >= options.fold_at_bytes {
            break;
        }
    }
    Ok((held, commits))
}
