//! Whether this processor has the instructions that the program was compiled to.

/// What x86-64-v2 adds to every x86-64 and its compiler uses: bits of ECX in leaf 1 of CPUID.
const V2: [(u32, &str); 6] =
    [(0, "SSE3"), (9, "SSSE3"), (13, "CMPXCHG16B"), (19, "SSE4.1"), (20, "SSE4.2"), (23, "POPCNT")];

/// Says what this processor lacks, so that an old one ends the program with a sentence and not with
/// SIGILL at whatever comes first.
///
/// It is the first thing that `main` does, and no more than a try: this function, and the little of
/// ours that runs before it, may be compiled to the same instructions. The allocator and the
/// standard library, which are most of what runs until then, are not.
///
/// # Errors
/// What is missing, in words.
pub fn check() -> Result<(), String> {
    let lacking = lacking(features());
    if lacking.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this processor lacks {}: the program is built for x86-64-v2, that is any of a server since \
         2009; in a virtual machine choose a newer CPU model, or build with \
         RUSTFLAGS=-Ctarget-cpu=x86-64",
        lacking.join(", ")
    ))
}

fn lacking(features: u32) -> Vec<&'static str> {
    V2.iter().filter(|(bit, _)| features >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse4.2"))]
fn features() -> u32 {
    // Not `is_x86_feature_detected!`: what a program is compiled to, that takes to be there.
    std::arch::x86_64::__cpuid(1).ecx
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse4.2")))]
fn features() -> u32 {
    // What the program was not compiled to is not missing.
    u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        // A Core 2 of 2006, a Nehalem of 2009, and what runs the tests.
        assert_eq!(lacking(0x0000_e3bd), ["SSE4.1", "SSE4.2", "POPCNT"]);
        assert!(lacking(0x009c_e3bd).is_empty());
        assert_eq!(lacking(0).len(), V2.len());
        assert_eq!(check(), Ok(()));
    }
}
