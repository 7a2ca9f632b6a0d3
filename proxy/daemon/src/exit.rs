//! Exit codes, so that a supervisor knows whether starting again can help.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::problems::Problems;

/// Why a program ends other than by being asked to. The numbers are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: failed while running; starting again may help.
    Failed,
    /// 69: the kernel lacks a feature that is needed.
    Unavailable,
    /// 77: a privilege is missing.
    NoPermission,
    /// 78: the configuration is invalid.
    Configuration,
}

impl Code {
    const fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Unavailable => 69,
            Self::NoPermission => 77,
            Self::Configuration => 78,
        }
    }
}

/// The end of a program: a code and the error behind it.
#[derive(Debug)]
pub struct Failure {
    /// What the supervisor is told.
    pub code: Code,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends the program with `code` because of `error`.
    pub fn new(code: Code, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, error: error.into() }
    }

    /// Failed while running.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Code::Failed, error)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(Code::Configuration, problems)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        chain(self.error.as_ref()).fmt(formatter)
    }
}

/// What `main` returns: prints the failure, if any, to standard error.
#[expect(clippy::print_stderr, reason = "the one place where a program says why it ends")]
pub fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code.number())
        }
    }
}

/// An error with everything that caused it, in one line: `bind 0.0.0.0:8443: address in use`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries print their source themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
