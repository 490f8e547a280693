//! `dacapo dev`: what changes is built and uploaded again.

use crate::cli_support::{Data, root};
use crate::guests::guest;

#[test]
fn a_module_that_changes_is_uploaded_again_and_one_that_is_broken_is_told() {
    let data = Data::new("dev");
    let file = data.path().join("desk.wasm");
    std::fs::write(&file, &*guest("life")).unwrap();
    let mut dev = data.spawn(&["dev", file.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    dev.line_with("listening on http://127.0.0.1:");
    let first = dev.line_with("uploaded desk@");
    assert!(dev.line_with("start it at").contains("dacapo start"), "it says what to do next");
    let default = || data.run(&["modules", "default", "desk"]).ok().stdout;
    assert!(first.contains(default().trim()), "{first}");

    std::fs::write(&file, "rubbish").unwrap();
    dev.line_with("something changed, building");
    dev.line_with("nothing was uploaded; change it and save");
    assert!(first.contains(default().trim()), "what worked before is still the default");

    std::fs::write(&file, &*guest("forks")).unwrap();
    let second = dev.line_with("uploaded desk@");
    assert!(second.contains(default().trim()) && first != second, "{first}, then {second}");
    // Back to what it was: that is known, and the default again.
    std::fs::write(&file, &*guest("life")).unwrap();
    dev.line_with(first.split_once(": ").unwrap().0.trim_start_matches("uploaded "));
    assert!(first.contains(default().trim()));

    dev.terminate();
    assert_eq!(dev.rest().0, Some(0));
    let nothing = data.run(&["dev", root().join("wit").to_str().unwrap(), "--json"]).failed(3).error();
    assert!(nothing["message"].as_str().unwrap().contains("expected a dacapo.toml"), "{nothing}");
}
