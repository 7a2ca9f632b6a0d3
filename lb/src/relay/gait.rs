//! Whether the bytes of one direction are copied or spliced. Pure: the caller says what each round moved.

/// Bulk is spliced, which spares the processor two copies; small messages are copied, which spares them the detour.
/// It takes more than one round of the other kind to change, so that mixed traffic does not flap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gait {
    /// Through a buffer. So many rounds in a row were large.
    Copy {
        /// Fewer than [`LARGE_ROUNDS`].
        large: u8,
    },
    /// Through a pipe. So many rounds in a row were small.
    Splice {
        /// Fewer than [`SMALL_ROUNDS`].
        small: u8,
    },
}

impl Gait {
    /// How a connection begins.
    pub(super) const START: Self = Self::Copy { large: 0 };

    /// What follows a round that moved `count` bytes, whichever way it did.
    pub(super) fn after(self, count: usize) -> Self {
        match (self, count >= LARGE) {
            (Self::Copy { .. }, false) => Self::Copy { large: 0 },
            (Self::Copy { large }, true) if large + 1 == LARGE_ROUNDS => Self::Splice { small: 0 },
            (Self::Copy { large }, true) => Self::Copy { large: large + 1 },
            (Self::Splice { .. }, true) => Self::Splice { small: 0 },
            (Self::Splice { small }, false) if small + 1 == SMALL_ROUNDS => Self::START,
            (Self::Splice { small }, false) => Self::Splice { small: small + 1 },
        }
    }
}

/// Bytes in one round that make it large.
const LARGE: usize = 16 * 1024;
/// Large rounds in a row after which bytes are spliced.
const LARGE_ROUNDS: u8 = 2;
/// Small rounds in a row after which they are copied again.
const SMALL_ROUNDS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_several_rounds_to_change() {
        const S: usize = LARGE - 1;
        const L: usize = LARGE;
        let cases: [(&str, &[usize], Gait); 8] = [
            ("a connection begins by copying", &[], Gait::Copy { large: 0 }),
            ("one large message is no bulk", &[L], Gait::Copy { large: 1 }),
            ("two are", &[L, L], Gait::Splice { small: 0 }),
            ("in a row", &[L, S, L], Gait::Copy { large: 1 }),
            ("a pause of bulk changes nothing", &[L, L, S, S, S], Gait::Splice { small: 3 }),
            ("bulk that goes on starts the count anew", &[L, L, S, S, S, L], Gait::Splice { small: 0 }),
            ("small messages are copied again", &[L, L, S, S, S, S], Gait::Copy { large: 0 }),
            ("and bulk is found again", &[L, L, S, S, S, S, L, L], Gait::Splice { small: 0 }),
        ];
        for (name, rounds, expected) in cases {
            let gait = rounds.iter().fold(Gait::START, |gait, count| gait.after(*count));
            assert_eq!(gait, expected, "{name}");
        }
    }
}
