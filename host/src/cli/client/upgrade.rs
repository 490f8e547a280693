//! Versions and upgrades, through the server or in this process.

use serde_json::{Value, json};
use ureq::SendBody;

use super::{Client, Remote, as_json, with_query};
use crate::cli::error::Result;
use crate::cli::modules::Uploader;
use crate::engine::Upload;
use crate::engine::upgrade::Scope;
use crate::server::versions::{CollectBody, MigrateBody, Named, RemoveBody};

impl Client {
    /// Uploads, and makes it the default only if running instances can go on with it.
    pub(crate) async fn upload_checked(&self, upload: Upload) -> Result<Value> {
        match self {
            Self::Local(api, data) => Uploader::new(api.store().clone(), data)?.take_checked(upload),
            Self::Remote(server) => server.upload(&upload, true),
        }
    }

    pub(crate) async fn set_default(&self, named: Named) -> Result<Value> {
        match self {
            Self::Local(api, _) => blocking(api.clone(), move |api| api.set_default(&named)).await,
            Self::Remote(server) => server.post("modules/default", &json!(named)),
        }
    }

    pub(crate) async fn remove_module(&self, body: RemoveBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => blocking(api.clone(), move |api| api.remove_module(&body)).await,
            Self::Remote(server) => server.post("modules/remove", &json!(body)),
        }
    }

    pub(crate) async fn collect_modules(&self, body: CollectBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => blocking(api.clone(), move |api| api.collect_modules(body)).await,
            Self::Remote(server) => server.post("modules/gc", &json!(body)),
        }
    }

    pub(crate) async fn check(&self, bytes: Vec<u8>, scope: Scope) -> Result<Value> {
        match self {
            Self::Local(api, _) => blocking(api.clone(), move |api| api.check(&bytes, &scope)).await,
            Self::Remote(server) => server.check(&bytes, &scope),
        }
    }

    pub(crate) async fn migrate(&self, body: MigrateBody) -> Result<Value> {
        match self {
            Self::Local(api, _) => blocking(api.clone(), move |api| api.migrate(&body)).await,
            Self::Remote(server) => server.post("modules/migrate", &json!(body)),
        }
    }
}

impl Remote {
    fn check(&self, bytes: &[u8], scope: &Scope) -> Result<Value> {
        let request = self.agent.post(self.url(&with_query("modules/check", scope)));
        let request = request.header("content-type", "application/wasm");
        as_json(&self.answer(request.send(SendBody::from_reader(&mut &*bytes)))?)
    }
}

async fn blocking(
    api: crate::server::api::Api,
    run: impl FnOnce(&crate::server::api::Api) -> crate::server::api::Result<Value> + Send + 'static,
) -> Result<Value> {
    Ok(crate::server::api::blocking(move || run(&api)).await?)
}
