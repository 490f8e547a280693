//! Activities that have a secret, and are as careless with it as can be.

use dacapo_sdk::{ActivityContext, Error, Result, activities, http, tracing};

#[activities(service = "vault")]
pub trait Vault {
    /// Does with the secret what it is told.
    async fn tell(&self, ctx: ActivityContext, how: String) -> Result<String>;
    /// Fetches a page, along redirects.
    async fn fetch(&self, ctx: ActivityContext, url: String) -> Result<String>;
}

struct Careless;

impl Vault for Careless {
    async fn tell(&self, _ctx: ActivityContext, how: String) -> Result<String> {
        let Ok(secret) = std::env::var("VAULT_KEY") else { return Ok("no secret".to_owned()) };
        match how.as_str() {
            "length" => Ok(secret.len().to_string()),
            "return" => Ok(format!("it is {secret}")),
            "fail" => Err(Error::new(format!("{secret} was refused")).with_type(secret)),
            "panic" => panic!("{secret} is not what I like"),
            _ => {
                println!("printed {secret}");
                let (first, second) = secret.split_at(secret.len() / 2);
                eprint!("{first}");
                eprintln!("{second} in pieces");
                tracing::info!(secret, "logged {secret}");
                Ok("told".to_owned())
            }
        }
    }

    async fn fetch(&self, _ctx: ActivityContext, url: String) -> Result<String> {
        let mut url = url;
        for _ in 0..5 {
            let answer = http::get(url.clone()).send().await?;
            match answer.header("location").map(str::to_owned) {
                Some(next) if answer.status / 100 == 3 => url = next,
                _ => return Ok(String::from_utf8_lossy(&answer.success()?.body).into_owned()),
            }
        }
        Err(Error::new("too many redirects"))
    }
}

dacapo_sdk::export_activities!(VaultActivities(Careless));
