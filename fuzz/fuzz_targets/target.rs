//! libFuzzer over the target that `EXPMAN_FUZZ_TARGET` names; see `tests/fuzzing` for what the targets are.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[global_allocator]
static HEAP: expman_fuzzing::Counted = expman_fuzzing::Counted;

fuzz_target!(|bytes: &[u8]| {
    static NAME: OnceLock<String> = OnceLock::new();
    let name = NAME.get_or_init(|| std::env::var("EXPMAN_FUZZ_TARGET").unwrap_or_default());
    expman_fuzzing::must_hold(name, bytes);
});
