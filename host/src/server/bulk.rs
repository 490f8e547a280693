//! One action on every instance that matches: `POST bulk`.
//!
//! With `dry_run` it only counts. Instances to which the action cannot be applied
//! (one that has ended cannot be cancelled) do not match. One that changes in the
//! meantime is told under `skipped`; the others are done all the same.

use std::collections::BTreeMap;

use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Scoped;
use super::api::{Api, ListQuery, Result, blocking};
use super::life::{RestartBody, RewindBody};
use super::{Answer, JsonBody, Problem};
use crate::core::ids::InstanceId;
use crate::core::summary::{Status, Summary};
use crate::store::{Filter, Store as _};

/// Instances of one request; more are told as `remaining`.
const MAX_AT_ONCE: usize = 10_000;
/// Instances that are acted on at the same time: they share commits.
const TOGETHER: usize = 64;
/// Of those that were skipped, so many are told.
const MAX_TOLD: usize = 100;
const PAGE: usize = 1000;

/// What is to be done, and to which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkBody {
    /// What.
    pub action: BulkAction,
    /// To which: at least one condition, unless `all` says that all are meant.
    #[serde(default)]
    pub filter: Selection,
    /// All are meant.
    #[serde(default)]
    pub all: bool,
    /// Why; it is recorded.
    #[serde(default)]
    pub reason: String,
    /// Of a rewind: also where it forgets calls that may have run.
    #[serde(default)]
    pub force: bool,
    /// Only say how many they are.
    #[serde(default)]
    pub dry_run: bool,
}

/// What can be done to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BulkAction {
    /// Ask them to end.
    Cancel,
    /// End them at once.
    Terminate,
    /// Hold them.
    Suspend,
    /// Let them go on.
    Resume,
    /// Go on from before the last failed operation.
    Rewind,
    /// Run them again from the beginning, under the same id.
    Restart,
    /// Remove them.
    Purge,
}

impl BulkAction {
    fn applies(self, status: Status) -> bool {
        match self {
            Self::Cancel | Self::Terminate => !status.is_final(),
            Self::Suspend => status == Status::Running,
            Self::Resume => status == Status::Suspended,
            Self::Rewind => status == Status::Failed,
            Self::Restart | Self::Purge => status.is_final(),
        }
    }
}

/// Which instances; every condition given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// This status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// This orchestration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<String>,
    /// Ids that begin so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Of this module: name (all its versions), name@version or hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// With these tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Created then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from: Option<String>,
    /// Created before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<String>,
}

impl Selection {
    pub(crate) fn query(self) -> Result<ListQuery> {
        let tags =
            Some(self.tags).filter(|tags| !tags.is_empty()).map(|tags| super::api::to_json(&tags)).transpose()?;
        Ok(ListQuery {
            status: self.status,
            orchestration: self.orchestration,
            prefix: self.prefix,
            module: self.module,
            tags: tags.map(|tags| tags.to_string()),
            created_from: self.created_from,
            created_before: self.created_before,
            ..ListQuery::default()
        })
    }
}

impl Api {
    /// Does something to every instance that matches; how many they were.
    ///
    /// # Errors
    /// If nothing says which are meant, or the store fails.
    pub async fn bulk(&self, body: BulkBody) -> Result<Value> {
        if body.filter == Selection::default() && !body.all {
            return Err(Problem::invalid("the filter is empty: expected a condition, or all: true for all instances"));
        }
        self.engine()?;
        let (api, action) = (self.clone(), body.action);
        let filter = self.filter(body.filter.clone().query()?)?;
        let found = blocking(move || api.matching(&filter, action)).await?;
        let matched = found.len();
        if body.dry_run {
            return Ok(json!({ "action": action, "matched": matched, "done": 0, "dry_run": true }));
        }
        let remaining = matched.saturating_sub(MAX_AT_ONCE);
        let acting = found.into_iter().take(MAX_AT_ONCE).map(|id| {
            let body = &body;
            async move { self.act(&id, body).await.map_err(|problem| (id, problem)) }
        });
        let done: Vec<_> = futures::stream::iter(acting).buffer_unordered(TOGETHER).collect().await;
        let skipped: Vec<_> = done.iter().filter_map(|done| done.as_ref().err()).collect();
        let told = skipped.iter().take(MAX_TOLD);
        let told = told.map(|(id, problem)| json!({ "id": id, "code": problem.code, "detail": problem.detail }));
        Ok(json!({
            "action": action,
            "matched": matched,
            "done": done.len() - skipped.len(),
            "skipped_total": skipped.len(),
            "skipped": told.collect::<Vec<_>>(),
            "remaining": remaining,
            "dry_run": false,
        }))
    }

    fn matching(&self, filter: &Filter, action: BulkAction) -> Result<Vec<InstanceId>> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<Summary> = self.store().list(filter, after.as_ref(), PAGE)?;
            after = page.last().map(|row| row.instance.clone());
            let is_last = page.len() < PAGE;
            found.extend(page.into_iter().filter(|row| action.applies(row.status)).map(|row| row.instance));
            if is_last {
                return Ok(found);
            }
        }
    }

    async fn act(&self, id: &InstanceId, body: &BulkBody) -> Result<()> {
        let reason = body.reason.as_str();
        match body.action {
            BulkAction::Cancel => self.cancel(id, reason).await,
            BulkAction::Terminate => self.terminate(id, reason).await,
            BulkAction::Suspend => self.suspend(id, reason).await,
            BulkAction::Resume => self.resume(id, reason).await,
            BulkAction::Rewind => self.rewind(id, &RewindBody { force: body.force, reason: reason.to_owned() }).await,
            BulkAction::Restart => self.restart(id, &RestartBody::default()).await.map(drop),
            BulkAction::Purge => {
                let (api, id) = (self.clone(), id.clone());
                blocking(move || api.purge(&id)).await
            }
        }
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/bulk", post(bulk))
}

async fn bulk(Scoped(api): Scoped, JsonBody(body): JsonBody<BulkBody>) -> Answer {
    api.bulk(body).await.map(Json)
}
