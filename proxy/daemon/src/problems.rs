//! The list of what is wrong with a configuration.

use std::fmt;

/// One thing wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where in the document: `backends[2].address`. Empty for the document as a whole.
    pub path: String,
    /// What is wrong and what was found, in lower case.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(formatter, "{}", self.what)
        } else {
            write!(formatter, "{}: {}", self.path, self.what)
        }
    }
}

/// Everything wrong with a configuration, in the order in which it was found.
///
/// Printed one problem per line as `path: what is wrong, what was found`.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// Notes one more problem.
    pub fn add(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.list.push(Problem { path: path.into(), what: what.into() });
    }

    /// The problems found so far.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// `Ok` with `value` where no problem was found.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.list.iter().enumerate() {
            if position > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}
