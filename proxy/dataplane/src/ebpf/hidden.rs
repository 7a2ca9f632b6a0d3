//! For tests: a kernel that has a feature becomes as one that lacks it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::Feature;

/// The object whose calls of these features' helpers are calls of a helper that no kernel has. No program with such a call is
/// loaded, unless the call is where the verifier never comes.
pub(super) fn hide<'object>(object: &'object [u8], lacking: &BTreeSet<Feature>) -> Cow<'object, [u8]> {
    const NOWHERE: u32 = 0x7fff;
    let call = |helper: u32| (u64::from(helper) << 32 | 0x85).to_le_bytes();
    let mut object = Cow::Borrowed(object);
    for feature in lacking {
        let known = call(feature.helper() as u32);
        // Sections of instructions begin at a multiple of their length.
        for instruction in object.to_mut().as_chunks_mut().0 {
            if *instruction == known {
                *instruction = call(NOWHERE);
            }
        }
    }
    object
}
