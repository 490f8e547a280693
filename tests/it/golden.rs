//! Texts that people read, kept in files: what the tests compare with is what a
//! reviewer sees. `DACAPO_BLESS=1` writes them anew.

use std::path::Path;

/// Compares with `tests/golden/<name>.txt`.
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"));
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os("DACAPO_BLESS").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{} differs; if it is right, run again with DACAPO_BLESS=1\n--- expected\n{kept}\n--- found\n{text}",
        path.display()
    );
}
