//! The proxy, tried on generated scripts: see `fuzz/checks/proxy.rs`.

use proptest::prelude::*;

use crate::proxy;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_all_ends(script in prop::collection::vec(any::<u8>(), 0..1500)) {
        proxy::check(&script);
    }
}
