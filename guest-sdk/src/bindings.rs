//! The contract (`wit/`) as Rust, generated at compile time: one module a world,
//! the nouns of `types` shared. Nothing here is public API; the exporting macros
//! reach in from a user's crate.

#![allow(unsafe_code, missing_docs, unreachable_pub, rust_2018_idioms, clippy::all)]

pub mod orchestration {
    wit_bindgen::generate!({
        path: "../wit",
        world: "orchestration",
        pub_export_macro: true,
        export_macro_name: "export_orchestration",
        default_bindings_module: "::dacapo_sdk::bindings::orchestration",
    });
}

pub mod activity {
    wit_bindgen::generate!({
        path: "../wit",
        world: "activity",
        pub_export_macro: true,
        export_macro_name: "export_activity",
        default_bindings_module: "::dacapo_sdk::bindings::activity",
        with: {
            "dacapo:workflow/types@0.1.0": crate::bindings::orchestration::dacapo::workflow::types,
        },
    });
}

pub use orchestration::dacapo::workflow::types;
