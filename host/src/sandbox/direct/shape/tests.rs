//! A small component of the form, and the same with one thing changed.

use super::*;

/// One direct import, two through shim and fixup, one resource, and the three functions that are called.
const PLAIN: &str = r#"(component
  (import "dacapo:workflow/context@0.1.3" (instance $context
    (export "thing" (type (sub resource)))
    (export "other" (type (sub resource)))
    (export "cancel" (func (param "operation" u32)))
    (export "close" (func (param "operation" u32)))
    (export "log" (func (param "line" string)))
    (export "status" (func (param "status" string)))))
  (core module $main
    (import "dacapo:workflow/context@0.1.0" "cancel" (func (param i32)))
    (import "dacapo:workflow/context@0.1.0" "log" (func (param i32 i32)))
    (import "dacapo:workflow/context@0.1.0" "status" (func (param i32 i32)))
    (import "dacapo:workflow/context@0.1.0" "[resource-drop]thing" (func (param i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "dacapo:workflow/guest@0.1.0#start") (param i32 i32) (result i32) unreachable)
    (func (export "dacapo:workflow/guest@0.1.0#resume") (param i32 i32) (result i32) unreachable)
    (func (export "dacapo:workflow/guest@0.1.0#describe") (param i32 i32) (result i32) unreachable)
    (func (export "dacapo:workflow/guest@0.1.0#query") (param i32 i32) (result i32) unreachable)
    (func (export "cabi_post_dacapo:workflow/guest@0.1.0#start") (param i32)))
  (core module $shim-module
    (type $t (func (param i32 i32)))
    (table $slots 2 2 funcref)
    (export "0" (func 0)) (export "1" (func 1)) (export "$imports" (table $slots))
    (func (type $t) local.get 0 local.get 1 i32.const 0 call_indirect (type $t))
    (func (type $t) local.get 0 local.get 1 i32.const 1 call_indirect (type $t)))
  (core module $fixup-module
    (import "" "0" (func (param i32 i32)))
    (import "" "1" (func (param i32 i32)))
    (import "" "$imports" (table 2 2 funcref))
    (elem (i32.const 0) func 0 1))
  (core instance $shim (instantiate $shim-module))
  (alias export $context "cancel" (func $cancel))
  (core func $cancel (canon lower (func $cancel)))
  (alias core export $shim "0" (core func $indirect-0))
  (alias core export $shim "1" (core func $indirect-1))
  (alias export $context "thing" (type $thing))
  (core func $drop (canon resource.drop $thing))
  (core instance $imports
    (export "cancel" (func $cancel)) (export "[resource-drop]thing" (func $drop))
    (export "log" (func $indirect-0)) (export "status" (func $indirect-1)))
  (core instance $main (instantiate $main (with "dacapo:workflow/context@0.1.0" (instance $imports))))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $shim "$imports" (core table $slots))
  (alias export $context "log" (func $log))
  (core func $log (canon lower (func $log) (memory $memory) string-encoding=utf8))
  (alias export $context "status" (func $status))
  (core func $status (canon lower (func $status) (memory $memory) string-encoding=utf8))
  (core instance $fixes
    (export "$imports" (table $slots)) (export "0" (func $log)) (export "1" (func $status)))
  (core instance (instantiate $fixup-module (with "" (instance $fixes))))
  (type $called (func (param "input" string) (result string)))
  (alias core export $main "dacapo:workflow/guest@0.1.0#start" (core func $start))
  (alias core export $main "cabi_post_dacapo:workflow/guest@0.1.0#start" (core func $post))
  (alias core export $main "dacapo:workflow/guest@0.1.0#resume" (core func $resume))
  (alias core export $main "dacapo:workflow/guest@0.1.0#describe" (core func $describe))
  (alias core export $main "dacapo:workflow/guest@0.1.0#query" (core func $query))
  (func $start (type $called) (canon lift (core func $start) (memory $memory) (realloc $realloc)
    string-encoding=utf8 (post-return $post)))
  (func $resume (type $called) (canon lift (core func $resume) (memory $memory) (realloc $realloc)))
  (func $describe (type $called) (canon lift (core func $describe) (memory $memory) (realloc $realloc)))
  (func $query (type $called) (canon lift (core func $query) (memory $memory) (realloc $realloc)))
  (component $interface
    (type $called (func (param "input" string) (result string)))
    (import "import-func-start" (func $start (type $called)))
    (import "import-func-resume" (func $resume (type $called)))
    (import "import-func-describe" (func $describe (type $called)))
    (import "import-func-query" (func $query (type $called)))
    (export "start" (func $start)) (export "resume" (func $resume)) (export "query" (func $query))
    (export "describe" (func $describe)))
  (instance $guest (instantiate $interface (with "import-func-start" (func $start))
    (with "import-func-resume" (func $resume)) (with "import-func-query" (func $query))
    (with "import-func-describe" (func $describe))))
  (export "dacapo:workflow/guest@0.1.0" (instance $guest)))"#;

fn is_plain(text: &str) -> bool {
    let component = wat::parse_str(text).unwrap();
    wasmparser::Validator::new().validate_all(&component).unwrap();
    plain(&component, GUEST).is_some()
}

/// Whether it is still plain with the first of these changed into the second, which leaves it valid.
fn plain_with(old: &str, new: &str) -> bool {
    assert_eq!(PLAIN.matches(old).count(), 1, "{old}");
    is_plain(&PLAIN.replace(old, new))
}

#[test]
fn one_module_that_is_joined_by_name_is_plain() {
    let component = wat::parse_str(PLAIN).unwrap();
    let module = plain(&component, GUEST).unwrap().module;
    assert!(Parser::is_core_wasm(module) && has_memory(module));
    assert!(is_plain(PLAIN));
    assert!(plain_with("context@0.1.3", "context@0.1.0"));
    assert!(plain_with("string-encoding=utf8 (post-return", "(post-return"));
}

#[test]
fn what_is_to_be_called_must_be_exported() {
    let orchestrations = wat::parse_str(PLAIN).unwrap();
    let activities =
        PLAIN.replace("dacapo:workflow/guest@0.1", "dacapo:workflow/activities@0.1").replace("start", "run");
    let activities = wat::parse_str(activities).unwrap();
    for (component, its, another) in [(&orchestrations, GUEST, ACTIVITIES), (&activities, ACTIVITIES, GUEST)] {
        assert!(plain(component, its).is_some_and(|plain| plain.interface.starts_with(its.interface)));
        assert!(plain(component, another).is_none());
    }
}

#[test]
fn an_import_that_is_joined_to_another_is_not_plain() {
    assert!(!plain_with(r#"$context "cancel""#, r#"$context "close""#));
    assert!(!plain_with(r#"$context "log""#, r#"$context "status""#));
    assert!(!plain_with(r#"$context "thing""#, r#"$context "other""#));
    assert!(!plain_with("context@0.1.3", "context@0.2.0"));
    assert!(!plain_with(r#"(export "log" (func $indirect-0))"#, r#"(export "log" (func $indirect-1))"#));
    assert!(!plain_with(r#"(export "0" (func $log))"#, r#"(export "0" (func $status))"#));
}

#[test]
fn a_shim_that_joins_in_another_order_is_not_plain() {
    assert!(!plain_with("i32.const 0 call_indirect", "i32.const 1 call_indirect"));
    assert!(!plain_with("local.get 0 local.get 1 i32.const 0", "local.get 1 local.get 0 i32.const 0"));
    assert!(!plain_with("func 0 1))", "func 1 0))"));
    assert!(!plain_with("(elem (i32.const 0) func 0 1)", ""));
    assert!(!plain_with("(table 2 2 funcref))", "(table 2 2 funcref)) (func $f) (start $f)"));
}

#[test]
fn an_export_that_leads_to_another_is_not_plain() {
    let alias = |name| format!(r#"$main "dacapo:workflow/guest@0.1.0#{name}""#);
    assert!(!plain_with(&alias("resume"), &alias("query")));
    assert!(!plain_with(r#"(with "import-func-query" (func $query))"#, r#"(with "import-func-query" (func $resume))"#));
    assert!(!plain_with(r#"(export "query" (func $query))"#, r#"(export "query" (func $resume))"#));
    assert!(!plain_with(r#"(export "dacapo:workflow/guest@0.1.0""#, r#"(export "dacapo:workflow/guest@0.2.0""#));
}

#[test]
fn another_memory_or_encoding_is_not_plain() {
    assert!(!plain_with("(core module $shim-module", "(core module (memory 1)) (core module $shim-module"));
    assert!(!plain_with("string-encoding=utf8 (post-return", "string-encoding=utf16 (post-return"));
    assert!(!plain_with(" (post-return $post)", ""));
    assert!(!plain_with(r#"(export "memory") 1)"#, r#"(export "memory") 1) (func $f) (start $f)"#));
    // This one is not valid: a string needs a memory.
    let missing = PLAIN.replace("(core func $resume) (memory $memory) (realloc $realloc)", "(core func $resume)");
    assert!(missing.len() < PLAIN.len() && plain(&wat::parse_str(&missing).unwrap(), GUEST).is_none());
}

#[test]
fn what_is_broken_is_not_plain() {
    let component = wat::parse_str(PLAIN).unwrap();
    for end in 0..component.len() / 2 {
        assert!(plain(&component[..end], GUEST).is_none());
    }
    for position in 0..component.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut broken = component.clone();
            broken[position] ^= change;
            let _ = plain(&broken, GUEST);
        }
    }
}

#[test]
fn more_items_than_any_guest_has_are_not_read() {
    // A type section of very many types of one byte each.
    let many = 1_000_000_u32;
    let mut section = vec![0xc0, 0x84, 0x3d];
    section.extend(std::iter::repeat_n(0x73, many as usize));
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.push(7);
    component.extend([0xc3, 0x84, 0x3d]);
    component.extend(&section);
    let read = wasmparser::Parser::new(0).parse_all(&component).filter_map(Result::ok);
    let counted = read.filter_map(|payload| match payload {
        wasmparser::Payload::ComponentTypeSection(types) => Some(types.count()),
        _ => None,
    });
    assert_eq!(counted.collect::<Vec<_>>(), [many]);
    assert!(super::parts::Parts::read(&component).is_none());
}
