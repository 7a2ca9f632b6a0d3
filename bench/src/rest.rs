//! When something that changes has come to rest.

use std::time::{Duration, Instant};

/// What differs by so much of it is the same.
const SAME: f64 = 0.01;
/// For so long it must have stayed the same. A balancer may give memory back a while after no more connections come.
const SETTLED: Duration = Duration::from_secs(2);

/// What was read of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// Since when it is the same, and as what.
    same: Option<(Instant, f64)>,
}

impl Rest {
    /// Whether it is at rest, now that it was read as this.
    pub(crate) fn reached(&mut self, now: Instant, read: f64) -> bool {
        match self.same {
            Some((since, first)) if (read - first).abs() <= SAME * first => now - since >= SETTLED,
            _ => {
                self.same = Some((now, read));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::tests::wait;

    use super::*;

    /// After how many milliseconds it is at rest, if these are read one after the other, half a second apart.
    fn at_rest(readings: &[f64]) -> Option<u32> {
        let (start, mut rest) = (wait::now(), Rest::default());
        let mut times = (0..).step_by(500);
        let mut reached = |&read: &f64| {
            let after = times.next()?;
            rest.reached(start + Duration::from_millis(after.into()), read).then_some(after)
        };
        readings.iter().find_map(&mut reached)
    }

    #[test]
    fn what_stays_the_same_for_two_seconds_is_at_rest() {
        let cases: [(&str, &[f64], Option<u32>); 6] = [
            ("nothing was read", &[], None),
            ("too short", &[12.0, 12.0, 12.0, 12.0], None),
            ("always the same", &[12.0, 12.0, 12.0, 12.0, 12.0], Some(2_000)),
            ("nearly the same", &[12.0, 12.1, 11.9, 12.1, 12.0], Some(2_000)),
            ("gives some back", &[12.0, 12.0, 12.0, 9.4, 9.4, 9.4, 9.4, 9.4], Some(3_500)),
            ("grows a little each time", &[10.0, 10.06, 10.12, 10.18, 10.24, 10.3, 10.36, 10.42], None),
        ];
        for (case, readings, expected) in cases {
            assert_eq!(at_rest(readings), expected, "{case}");
        }
    }
}
