//! Tests of dacapo.
