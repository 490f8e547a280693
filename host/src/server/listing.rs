//! Lists of instances: by id, or the newest first, with how many there are of each
//! status.
//!
//! Both orders are what the store itself does: a page costs what is looked at until it
//! is full. Counts of all instances cost nothing either. Those with conditions look at
//! every row that matches, up to [`MAX_SCAN`] of them; an answer says whether that was all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Api, ListQuery, Result};
use super::problem::Problem;
use crate::core::ids::{InstanceId, TimestampMs};
use crate::core::summary::{Status, Summary};
use crate::engine::view::InstanceRow;
use crate::store::{Filter, Store as _};

const LIST_LIMIT: usize = 50;
const MAX_LIST_LIMIT: usize = 1000;
/// Rows that one request looks at: about a second of one core.
const MAX_SCAN: usize = 500_000;
const SCAN_PAGE: usize = 1000;

/// In which order to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By id.
    #[default]
    Id,
    /// Those created last first.
    Newest,
}

/// How many instances there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By status.
    pub by_status: BTreeMap<Status, u64>,
    /// Of all.
    pub total: u64,
    /// False if there are more than were looked at.
    pub complete: bool,
}

impl Counts {
    /// How many have that status.
    pub fn of(&self, status: Status) -> u64 {
        self.by_status.get(&status).copied().unwrap_or_default()
    }

    fn json(&self) -> Value {
        let mut all: serde_json::Map<_, _> =
            Status::ALL.iter().map(|status| (status.to_string(), self.of(*status).into())).collect();
        all.insert("total".to_owned(), self.total.into());
        all.insert("complete".to_owned(), self.complete.into());
        all.into()
    }
}

/// A page of instances.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its rows.
    pub rows: Vec<Summary>,
    /// What to give as `after` for the next page, if there is one.
    pub next: Option<String>,
    /// If they were asked for: counts of what matches, whatever its status.
    pub counts: Option<Counts>,
}

/// Where a page of the newest first goes on: before this one. The text is
/// `created-ms.id`, so it holds although the instance may be gone by then.
type Cursor = (TimestampMs, InstanceId);

impl Api {
    /// Instances that match.
    ///
    /// # Errors
    /// If the cursor or a condition is none, or the store fails.
    pub fn list(&self, query: ListQuery) -> Result<Value> {
        let Listed { rows, next, counts } = self.page(query)?;
        let rows: Vec<_> = rows.into_iter().map(InstanceRow::from).collect();
        let mut answer = json!({ "instances": rows, "next": next });
        if let Some(counts) = counts {
            answer["counts"] = counts.json();
        }
        Ok(answer)
    }

    /// [`Api::list`], for a program.
    ///
    /// # Errors
    /// As there.
    pub fn page(&self, mut query: ListQuery) -> Result<Listed> {
        let limit = query.limit.unwrap_or(LIST_LIMIT);
        if !(1..=MAX_LIST_LIMIT).contains(&limit) {
            return Err(Problem::invalid(format!("limit is {limit}: expected 1 to {MAX_LIST_LIMIT}; page with after")));
        }
        let (order, with_counts, after) = (query.order, query.counts, query.after.take());
        let filter = self.filter(query)?;
        let (rows, next, counts) = match order {
            Order::Id => {
                let after = after.as_deref().map(|id| self.id(id)).transpose()?;
                let mut rows = self.store().list(&filter, after.as_ref(), limit + 1)?;
                let more = rows.len() > limit;
                rows.truncate(limit);
                let next = rows.last().filter(|_| more).map(|row| row.instance.local().to_owned());
                (rows, next, with_counts.then(|| self.counts(&filter)).transpose()?)
            }
            Order::Newest => {
                let after = after.as_deref().map(|text| self.cursor(text)).transpose()?;
                let mut rows = self.newest(&filter, after.as_ref(), limit + 1)?;
                let more = rows.len() > limit;
                rows.truncate(limit);
                let next = rows.last().filter(|_| more).map(|row| format!("{}.{}", row.created_at.0, row.instance));
                (rows, next, with_counts.then(|| self.counts(&filter)).transpose()?)
            }
        };
        Ok(Listed { rows, next, counts })
    }

    /// How many match, by status; the filter's own status is left aside.
    ///
    /// # Errors
    /// If the store fails.
    pub fn counts(&self, filter: &Filter) -> Result<Counts> {
        let any_status = Filter { status: None, ..filter.clone() };
        let namespace = (!filter.everywhere).then_some(&filter.namespace);
        let all = Filter { namespace: filter.namespace.clone(), everywhere: filter.everywhere, ..Filter::default() };
        if any_status == all {
            let by_status = self.store().counts(namespace)?;
            return Ok(Counts { total: by_status.values().sum(), by_status, complete: true });
        }
        let mut counts = Counts::default();
        let mut last = None;
        while !counts.complete && (counts.total as usize) < MAX_SCAN {
            let page = self.store().list(&any_status, last.as_ref(), SCAN_PAGE)?;
            counts.complete = page.len() < SCAN_PAGE;
            last = page.last().map(|row| row.instance.clone());
            counts.total += page.len() as u64;
            page.iter().for_each(|row| *counts.by_status.entry(row.status).or_default() += 1);
        }
        Ok(counts)
    }

    /// The `limit` newest ones before `after`.
    fn newest(&self, filter: &Filter, after: Option<&Cursor>, limit: usize) -> Result<Vec<Summary>> {
        if filter.status.is_none_or(Status::is_final) {
            return Ok(self.store().newest(filter, after, limit)?);
        }
        // There are few that run among all there ever were: the store has them together.
        let mut newest = BTreeMap::new();
        let mut last = None;
        loop {
            let page = self.store().list(filter, last.as_ref(), SCAN_PAGE)?;
            last = page.last().map(|row| row.instance.clone());
            let is_last = page.len() < SCAN_PAGE;
            for row in page {
                let key = (row.created_at, row.instance.clone());
                if after.is_none_or(|after| key < *after) {
                    newest.insert(key, row);
                }
                if newest.len() > limit {
                    newest.pop_first();
                }
            }
            if is_last {
                return Ok(newest.into_values().rev().collect());
            }
        }
    }

    fn cursor(&self, text: &str) -> Result<Cursor> {
        let parts = text.split_once('.').and_then(|(at, id)| Some((TimestampMs(at.parse().ok()?), id)));
        let (at, id) = parts.ok_or_else(|| {
            Problem::invalid(format!("after is {text:?}: with order=newest, expected the next of an answer before"))
        })?;
        Ok((at, self.id(id)?))
    }
}
