//! How a command reaches a server, and as whom: its address, its token, and the
//! certificate that the server's must lead to.

use std::path::PathBuf;
use std::time::Duration;

use ureq::middleware::MiddlewareNext;
use ureq::tls::TlsConfig;
use ureq::{Agent, SendBody, http};

use super::error::{CliError, Result};
use crate::server::tls::trusting;

/// What every command takes that may talk to a server.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// A server, such as https://flows.example.org:7007, instead of the data folder's
    #[arg(long, global = true, value_name = "URL", env = "DACAPO_SERVER", hide_env_values = true)]
    server: Option<String>,
    /// The token to ask it with; others on this machine can see it here, but not in the variable
    #[arg(long, global = true, value_name = "TOKEN", env = "DACAPO_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token
    #[arg(long, global = true, value_name = "FILE", env = "DACAPO_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
    /// The certificate, in PEM, that the server's must lead to; the public ones without it
    #[arg(long, global = true, value_name = "FILE", env = "DACAPO_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
}

impl Reach {
    /// The server that is named.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref().filter(|url| !url.is_empty())
    }

    /// Asks with the token, if there is one, and gives up after `timeout`.
    pub(crate) fn agent(&self, timeout: Duration) -> Result<Agent> {
        let mut config = Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(timeout));
        if let Some(trusted) = self.trusted()? {
            config = config.tls_config(trusted);
        }
        if let Some(token) = self.token()? {
            let value = http::HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| CliError::input("the token has characters that no token has"))?;
            value.set_sensitive(true);
            config = config.middleware(move |mut request: http::Request<SendBody<'_>>, next: MiddlewareNext<'_>| {
                request.headers_mut().insert(http::header::AUTHORIZATION, value.clone());
                next.handle(request)
            });
        }
        Ok(config.build().into())
    }

    fn token(&self) -> Result<Option<String>> {
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(token.clone()));
        }
        let Some(path) = self.token_file.as_ref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| CliError::input(format!("{}: {error}", path.display())))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn trusted(&self) -> Result<Option<TlsConfig>> {
        let Some(path) = self.ca.as_ref().filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
        trusting(path).map(Some).map_err(CliError::input)
    }
}
