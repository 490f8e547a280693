//! `dacapo new`: a project to begin with. It builds from crates.io alone: the SDK,
//! which is not published yet, is brought along in `vendor/`.

use std::path::{Path, PathBuf};

use include_dir::{Dir, DirEntry, include_dir};
use serde_json::json;

use super::error::{CliError, Result, exit};
use super::{Common, output};

/// Files that end with `.in` are filled in and lose that ending; the ending also
/// keeps cargo from taking them for crates of this repository.
static TEMPLATE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/new");
static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../guest-sdk");
/// The SDK's bindings expect it beside the SDK.
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../wit");
const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const TOOLCHAIN: &str = include_str!("../../../rust-toolchain.toml");
/// Versions that are known to work; cargo drops those that are not used.
const LOCK: &str = include_str!("../../../examples/Cargo.lock");

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project's folder; its last part is the project's name
    #[arg(value_name = "NAME")]
    path: PathBuf,
}

pub(super) fn run(args: &Args, common: &Common) -> Result<()> {
    let name = args.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    check_name(name)?;
    if args.path.exists() {
        let message = format!("{} exists already; choose another name", args.path.display());
        return Err(CliError::new(exit::CONFLICT, "already-exists", message));
    }
    let ident = name.replace('-', "_");
    let fill = |text: &str| text.replace("{{name}}", name).replace("{{ident}}", &ident);
    let vendor = args.path.join("vendor");
    copy(&TEMPLATE, &args.path, &|path, text| (path.replace("gitignore.in", ".gitignore.in"), fill(text)))?;
    copy(&SDK, &vendor.join("dacapo-sdk"), &|path, text| (path.to_owned(), without_workspace(path, text)))?;
    copy(&WIT, &vendor.join("wit"), &|path, text| (path.to_owned(), text.to_owned()))?;
    write(&args.path.join("rust-toolchain.toml"), TOOLCHAIN)?;
    write(&args.path.join("Cargo.lock"), LOCK)?;
    let path = args.path.display();
    if common.json {
        output::json(&json!({ "name": name, "path": args.path, "orchestration": ident }));
    } else {
        output::out(format_args!(
            "made {path}. Next:\n\n  cd {path}\n  dacapo run . {ident} --input @input.json --id first\n  cargo test\n\n\
             Kill the second line while it runs and repeat it: it goes on where it was.\n\
             `dacapo dev` serves it with a page, and builds it again whenever a file changes."
        ));
    }
    Ok(())
}

/// The name becomes crates and a function.
fn check_name(name: &str) -> Result<()> {
    // Keywords, and crates that the project's own would hide.
    const TAKEN: &str = " as async await break const continue crate dyn else enum extern false fn for gen if impl in \
         let loop match mod move mut pub ref return self static struct super trait true try type unsafe use where \
         while abstract become box do final macro override priv typeof unsized virtual yield \
         test core std alloc proc-macro proc_macro dacapo-sdk dacapo_sdk dacapo-sdk-macros dacapo-testkit \
         schemars serde serde_json ";
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let good = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) && name.len() <= 50;
    if good && !TAKEN.contains(&format!(" {name} ")) {
        return Ok(());
    }
    Err(CliError::input(format!(
        "{name:?} cannot be a project's name: expected 1 to 50 lower-case letters, digits, '-' and '_', first a letter, \
         and no word of Rust or name of a crate that it uses"
    )))
}

fn copy(from: &Dir<'_>, to: &Path, edit: &dyn Fn(&str, &str) -> (String, String)) -> Result<()> {
    for entry in from.entries() {
        match entry {
            DirEntry::Dir(folder) => copy(folder, to, edit)?,
            DirEntry::File(file) => {
                let (path, text) = (file.path().to_string_lossy(), file.contents_utf8().unwrap_or_default());
                let (path, text) = edit(&path, text);
                write(&to.join(path.strip_suffix(".in").unwrap_or(&path)), &text)?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let cannot = |error: std::io::Error| CliError::host(format!("cannot write {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
    }
    std::fs::write(path, text).map_err(cannot)
}

/// A manifest of this repository that stands alone: what it inherits is written
/// out, and lints are left to those who work on it.
fn without_workspace(path: &str, text: &str) -> String {
    if !path.ends_with("Cargo.toml") {
        return text.to_owned();
    }
    let workspace: toml::Table = WORKSPACE.parse().unwrap_or_default();
    let inherited = |name: &str| Some(workspace.get("workspace")?.get("package")?.get(name)?.as_str()?.to_owned());
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_suffix(".workspace = true") {
            Some(name) => lines.extend(inherited(name).map(|value| format!("{name} = {value:?}"))),
            None if line == "[lints]" || line == "workspace = true" => {}
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_stands_alone() {
        for manifest in ["Cargo.toml", "macros/Cargo.toml", "testkit/Cargo.toml"] {
            let text = SDK.get_file(manifest).and_then(|file| file.contents_utf8()).expect("the SDK is brought along");
            let alone = without_workspace(manifest, text);
            assert!(!alone.contains("workspace"), "{alone}");
            let parsed: toml::Table = alone.parse().expect("it is still a manifest");
            assert_eq!(parsed["package"]["edition"].as_str(), Some("2024"));
        }
    }

    #[test]
    fn names_become_crates_and_functions() {
        assert!(check_name("order-desk_2").is_ok());
        for bad in ["", "2nd", "a b", "Desk", "match", "serde", "-x", "ü"] {
            assert_eq!(check_name(bad).unwrap_err().exit, exit::INPUT, "{bad}");
        }
    }
}
