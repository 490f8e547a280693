//! `dacapo config`: the settings in force and where each comes from; and the flags of
//! all settings, which `serve` takes too.

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{Arg, ArgMatches, FromArgMatches};
use serde_json::{Value, json};

use super::error::{CliError, Result};
use super::{Common, input, output};
use crate::server::config::ServerConfig;
use crate::server::settings::{Given, SETTINGS, Setting, Settings};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// What `serve` and `config` take.
#[derive(Debug, clap::Args)]
pub(super) struct SettingsArgs {
    /// A TOML file with settings; `dacapo config` lists them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Remove instances that ended so long ago, as completed=30d; may be given for each status
    #[arg(long, value_name = "STATUS=AGE", value_parser = retained)]
    retain: Vec<(&'static str, String)>,
    #[command(flatten)]
    flags: Flags,
}

/// `--retain completed=30d` is short for `--retention-completed 30d`.
fn retained(text: &str) -> std::result::Result<(&'static str, String), String> {
    let (status, _) = input::kept(text)?;
    let key = format!("retention.{status}");
    let setting = SETTINGS.iter().find(|setting| setting.key == key);
    let age = text.split_once('=').map(|(_, age)| age.to_owned());
    setting.zip(age).map(|(setting, age)| (setting.key, age)).ok_or_else(|| format!("{status} instances are kept"))
}

/// A flag for each setting.
#[derive(Debug)]
struct Flags(Vec<(&'static str, String)>);

/// The settings that have a flag here, and their flags; the data folder's is every command's.
fn flags() -> &'static [(Setting, String)] {
    static FLAGS: OnceLock<Vec<(Setting, String)>> = OnceLock::new();
    FLAGS.get_or_init(|| {
        let own = SETTINGS.iter().filter(|setting| !setting.is_inner() && setting.key != "data");
        own.map(|setting| (*setting, setting.flag())).collect()
    })
}

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        flags().iter().fold(command, |command, (setting, flag)| {
            let default =
                if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
            let help = format!("{}{default}", setting.what);
            let flag = Arg::new(setting.key)
                .long(flag.as_str())
                .value_name(setting.unit)
                .help(help)
                .overrides_with(setting.key);
            command.arg(flag.help_heading("Settings (in the file and the environment as well)"))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given =
            |(setting, _): &(Setting, String)| Some((setting.key, matches.get_one::<String>(setting.key)?.clone()));
        Ok(Self(flags().iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SettingsArgs {
    /// Puts together flags, environment and file, and reads what they mean.
    pub(super) fn read(&self, common: &Common) -> Result<(Settings, ServerConfig)> {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        // What is no text is nothing that a setting could be.
        let variables = variables.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect();
        let in_environment = std::env::var_os("DACAPO_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match self.config.clone().or(in_environment) {
            Some(path) => {
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|error| CliError::input(format!("{}: {error}", path.display())))?;
                Some((path, text))
            }
            None => None,
        };
        let mut flags: Vec<_> = self.flags.0.iter().chain(&self.retain).cloned().collect();
        if common.is_data_flag {
            flags.push(("data", common.data.display().to_string()));
        }
        let settings = Settings::of(&Given { flags, variables, file })?;
        let config = ServerConfig::of(&settings)?;
        Ok((settings, config))
    }
}

pub(super) fn run(args: &Args, common: &Common) -> Result<()> {
    let (settings, _) = args.settings.read(common)?;
    if common.json {
        output::json(&as_json(&settings));
        return Ok(());
    }
    let mut table = output::Table::new(&["KEY", "VALUE", "UNIT", "FROM"]);
    for (setting, value, origin) in &settings.shown {
        let value = value.as_ref().map_or_else(|| setting.default.to_owned(), plain);
        table.row([setting.key.to_owned(), value, setting.unit.to_owned(), origin.to_string()]);
    }
    table.print();
    Ok(())
}

/// As people write it on a command line.
fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn as_json(settings: &Settings) -> Value {
    let shown = settings.shown.iter().map(|(setting, value, origin)| {
        let value = match value {
            Some(value) => json!(value),
            None if setting.default.is_empty() => Value::Null,
            None => setting.default.parse::<u64>().map_or_else(|_| setting.default.into(), Value::from),
        };
        json!({
            "key": setting.key,
            "flag": format!("--{}", setting.flag()),
            "variable": setting.variable(),
            "value": value,
            "unit": setting.unit,
            "from": origin.name(),
            "where": origin.to_string(),
        })
    });
    json!({ "settings": shown.collect::<Vec<_>>() })
}
