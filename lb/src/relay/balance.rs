//! Which backend a new connection goes to. Pure: the caller holds the counter and knows who is eligible.

use crate::config::Policy;

/// A backend that may take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which backend.
    pub backend: usize,
    /// How many connections it has, those being established included.
    pub active: usize,
}

/// The backend for the connection number `turn`; `None` where there is no candidate.
///
/// Round robin is exact: over consecutive turns with the same candidates, no two of them differ by more than one
/// connection. Least connections breaks ties in the same manner, so that idle backends are used in turn.
pub fn pick(
    policy: Policy,
    candidates: impl Iterator<Item = Candidate> + Clone,
    turn: usize,
) -> Option<usize> {
    match policy {
        Policy::RoundRobin => in_turn(candidates, turn),
        Policy::LeastConnections => {
            let least = candidates.clone().map(|candidate| candidate.active).min()?;
            in_turn(candidates.filter(|candidate| candidate.active == least), turn)
        }
    }
}

fn in_turn(mut candidates: impl Iterator<Item = Candidate> + Clone, turn: usize) -> Option<usize> {
    let position = turn.checked_rem(candidates.clone().count())?;
    candidates.nth(position).map(|candidate| candidate.backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `active[backend]` is the number of its connections; `None` where it is not eligible.
    fn picks(policy: Policy, active: &[Option<usize>], turns: std::ops::Range<usize>) -> Vec<Option<usize>> {
        let candidates = active
            .iter()
            .enumerate()
            .filter_map(|(backend, active)| active.map(|active| Candidate { backend, active }));
        turns.map(|turn| pick(policy, candidates.clone(), turn)).collect()
    }

    #[test]
    fn choice_follows_from_policy_candidates_and_turn() {
        use Policy::{LeastConnections, RoundRobin};
        let cases = [
            ("each in turn", RoundRobin, [Some(9), Some(0), Some(5)], [0, 1, 2, 0, 1, 2]),
            ("the ineligible is passed over", RoundRobin, [Some(0), None, Some(0)], [0, 2, 0, 2, 0, 2]),
            ("one takes all", RoundRobin, [None, None, Some(7)], [2, 2, 2, 2, 2, 2]),
            ("fewest first", LeastConnections, [Some(3), Some(1), Some(2)], [1, 1, 1, 1, 1, 1]),
            ("ties in turn", LeastConnections, [Some(1), Some(4), Some(1)], [0, 2, 0, 2, 0, 2]),
            ("idle but ineligible", LeastConnections, [Some(3), None, Some(3)], [0, 2, 0, 2, 0, 2]),
        ];
        for (name, policy, active, expected) in cases {
            let expected = expected.map(Some).to_vec();
            assert_eq!(picks(policy, &active, 0..6), expected, "{name}");
        }
    }

    #[test]
    fn no_candidate_no_backend() {
        for policy in [Policy::RoundRobin, Policy::LeastConnections] {
            assert_eq!(picks(policy, &[None, None], 0..2), [None, None], "{policy:?}");
            assert_eq!(picks(policy, &[], 0..1), [None], "{policy:?}");
        }
    }
}
