//! Do the indexes fit the rows, and does every row belong to something?
//!
//! Reads find out for themselves when a row that they need is missing or damaged. What
//! no read would notice is looked for here: an entry too many or too few in an index,
//! and rows that nothing leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::error::Doing;
use super::meta::read_noted;
use super::tables::{self, CREATED, HISTORY, INSTANCES, MODULE_BYTES, MODULES, PAYLOADS, RUNNING, SNAPSHOTS};
use super::view::View;
use super::{RedbStore, index, log};
use crate::core::ids::{Hash, InstanceId};
use crate::core::namespace;
use crate::core::summary::{Status, Summary};
use crate::store::{IndexFinding, StoreError};

impl View {
    /// See [`Store::check_indexes`](crate::store::Store::check_indexes).
    pub(super) fn check_indexes(&self) -> Result<Vec<IndexFinding>, StoreError> {
        let mut findings = Findings(Vec::new());
        let executions = self.check_running(&mut findings)?;
        self.check_histories(&executions, &mut findings)?;
        self.check_payloads(&executions, &mut findings)?;
        self.check_snapshots(&executions, &mut findings)?;
        self.check_modules(&mut findings)?;
        Ok(findings.0)
    }

    /// Rows against the index of running instances; which execution each one is in.
    fn check_running(&self, findings: &mut Findings) -> Result<Executions, StoreError> {
        let rows = self.trees.open_table(INSTANCES).doing("open the instances")?;
        let running = self.trees.open_table(RUNNING).doing("open the running instances")?;
        let created = self.trees.open_table(CREATED).doing("open the index by creation")?;
        let (mut executions, mut counts) = (Executions::new(), BTreeMap::<(String, Status), u64>::new());
        for row in rows.iter().doing("list the instances")? {
            let (id, row) = row.doing("list the instances")?;
            let id = id.value();
            let Some(summary) = self.summary_in(id, row.value()) else {
                // Whoever reads it is told; what belongs to it cannot be judged.
                executions.insert(id.to_owned(), u32::MAX);
                continue;
            };
            executions.insert(id.to_owned(), summary.execution);
            *counts.entry((summary.instance.space().to_owned(), summary.status)).or_default() += 1;
            let key = index::created_key(summary.created_at, &summary.instance);
            if created.get(key.as_slice()).doing("read the index by creation")?.is_none() {
                findings.add(id, "the index by creation does not have it where its row says");
            }
            let is_noted = running.get(id).doing("read a running instance")?.is_some();
            if is_noted != summary.is_open() {
                let says = if is_noted { "has it" } else { "does not have it" };
                let problem = format!("it is {}, and the index of running instances {says}", summary.status);
                findings.add(id, problem);
            }
        }
        for row in running.iter().doing("list the running instances")? {
            let (id, _) = row.doing("list the running instances")?;
            if !executions.contains_key(id.value()) {
                findings.add(id.value(), "the index of running instances has it, and it has no row");
            }
        }
        if created.len().doing("read the index by creation")? != executions.len() as u64 {
            findings
                .add("the index by creation", format!("it does not have {} instances, as there are", executions.len()));
        }
        let noted = index::counts(&self.trees)?;
        // What cannot be read is of no known status.
        let all_read = counts.values().sum::<u64>() == executions.len() as u64;
        let all: BTreeSet<_> = noted.keys().chain(counts.keys()).filter(|_| all_read).collect();
        for of in all {
            if noted.get(of).copied().unwrap_or_default() != counts.get(of).copied().unwrap_or_default() {
                let (space, status) = of;
                let place = if space.is_empty() { String::new() } else { format!(" in the namespace {space}") };
                findings.add("the counts", format!("another number of {status} instances{place} than there are"));
            }
        }
        Ok(executions)
    }

    fn summary_in(&self, id: &str, row: &[u8]) -> Option<Summary> {
        tables::decode_summary(&self.codec, &InstanceId::stored(id).ok()?, row).ok()
    }

    fn check_histories(&self, executions: &Executions, findings: &mut Findings) -> Result<(), StoreError> {
        let rows = self.trees.open_table(HISTORY).doing("open the histories")?;
        let (mut told, mut sizes, mut all_read) = (BTreeSet::new(), BTreeMap::<Box<str>, u64>::new(), true);
        for row in rows.iter().doing("list the histories")? {
            let (key, row) = row.doing("list the histories")?;
            let Some((id, execution)) = index::owner_of_history(key.value()) else {
                findings.add("the histories", "a key that is none");
                continue;
            };
            match tables::history_row_bytes(&self.codec, key.value(), row.value()) {
                Ok(bytes) => *sizes.entry(namespace::split(id).0.into()).or_default() += bytes,
                // Whoever reads it is told.
                Err(_) => all_read = false,
            }
            let known = executions.get(id).copied().unwrap_or_default();
            if execution > known && told.insert((id.to_owned(), execution)) {
                findings.add(id, format!("there is a history of execution {execution}, and no row says so"));
            }
        }
        let noted = index::sizes(&self.trees)?;
        let all: BTreeSet<_> = noted.keys().chain(sizes.keys()).filter(|_| all_read).collect();
        for space in all {
            let (noted, found) =
                (noted.get(space).copied().unwrap_or_default(), sizes.get(space).copied().unwrap_or_default());
            if noted != found {
                let name = if space.is_empty() { namespace::DEFAULT } else { space };
                findings.add("the sizes", format!("{name} has {found} bytes of turns, and {noted} are noted"));
            }
        }
        Ok(())
    }

    fn check_payloads(&self, executions: &Executions, findings: &mut Findings) -> Result<(), StoreError> {
        let rows = self.trees.open_table(PAYLOADS).doing("open the payloads")?;
        for row in rows.iter().doing("list the payloads")? {
            let (key, _) = row.doing("list the payloads")?;
            let Some((id, hash)) = owner_of_payload(key.value()) else {
                findings.add("the payloads", "a key that is none");
                continue;
            };
            if !executions.contains_key(&id) {
                findings.add(&id, format!("there is a payload {} of it, and it has no row", hash.short()));
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, executions: &Executions, findings: &mut Findings) -> Result<(), StoreError> {
        let rows = self.trees.open_table(SNAPSHOTS).doing("open the snapshots")?;
        for row in rows.iter().doing("list the snapshots")? {
            let (id, row) = row.doing("list the snapshots")?;
            let id = id.value();
            if let Err(error) = tables::check_row("snapshots", id.as_bytes(), row.value()) {
                findings.add(id, format!("{error} (its history is not touched; the snapshot is not used)"));
            }
            if !executions.contains_key(id) && self.overlay.entries(id).is_empty() {
                findings.add(id, "there is a snapshot of it, and it has no row");
            }
        }
        Ok(())
    }

    fn check_modules(&self, findings: &mut Findings) -> Result<(), StoreError> {
        let modules = self.trees.open_table(MODULES).doing("open the modules")?;
        let bytes = self.trees.open_table(MODULE_BYTES).doing("open the modules")?;
        // That a module has its bytes is seen where they are read.
        for row in bytes.iter().doing("list the modules")? {
            let (hash, _) = row.doing("list the modules")?;
            if modules.get(hash.value()).doing("read a module")?.is_none() {
                let name = format!("module {}", Hash(*hash.value()).short());
                findings.add(&name, "there are bytes of it, and it has no row");
            }
        }
        Ok(())
    }
}

impl RedbStore {
    /// Frames that are not in the tables yet against those that should be there. Nothing
    /// is appended meanwhile.
    pub(super) fn check_log(&self) -> Result<Vec<IndexFinding>, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut findings = Findings(Vec::new());
        if let Some(id) = writer.log.id() {
            let (folded, durable) = (read_noted(&self.database)?.folded, self.shared.overlay().visible);
            for number in log::missing(&self.place, id, folded, durable)? {
                findings.add("the log", format!("commit {number}: its frame is damaged or missing"));
            }
        }
        Ok(findings.0)
    }
}

/// The execution that each instance's row is in; the last one of all where it cannot be read.
type Executions = BTreeMap<String, u32>;

struct Findings(Vec<IndexFinding>);

impl Findings {
    fn add(&mut self, of: &str, problem: impl ToString) {
        self.0.push(IndexFinding { of: namespace::shown(of).into_owned(), problem: problem.to_string() });
    }
}

fn owner_of_payload(key: &[u8]) -> Option<(String, Hash)> {
    let (id, place) = key.split_at_checked(key.len().checked_sub(33)?)?;
    let hash = Hash(*place.get(1..)?.first_chunk()?);
    (place[0] == 0).then_some((String::from_utf8(id.to_vec()).ok()?, hash))
}
