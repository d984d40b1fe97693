//! P5: what the compiler has to refuse, and with which message.
//!
//! The messages are those of the toolchain that CI uses; `TRYBUILD=overwrite` writes them anew.

#[test]
fn the_compiler_refuses() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
