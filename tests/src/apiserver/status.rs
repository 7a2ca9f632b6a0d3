//! What the apiserver says when it does not do what it was asked: meta/v1 Status.

use serde_json::{Value, json};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400: the request makes no sense.
    BadRequest(String),
    /// 401: no or a wrong token.
    Unauthorized,
    /// 404: no such object.
    NotFound(String),
    /// 405: the path knows no such method.
    Method,
    /// 409: there is one of this name.
    AlreadyExists(String),
    /// 409: the object has been changed since it was read.
    Conflict(String),
    /// 410: the history does not reach back that far.
    Expired {
        /// What was asked for.
        asked: u64,
        /// The oldest that is left.
        oldest: u64,
    },
    /// 422: the object cannot be stored.
    Invalid(String),
    /// 504: the client knows a future that this server has not seen.
    TooLarge {
        /// What was asked for.
        asked: u64,
        /// The newest there is.
        current: u64,
    },
    /// A fault that a test asked for.
    Fault {
        /// The HTTP status.
        code: u16,
        /// When to come back.
        retry_after_seconds: Option<u64>,
    },
}

impl Refusal {
    /// The HTTP status.
    pub(super) const fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Unauthorized => 401,
            Self::NotFound(_) => 404,
            Self::Method => 405,
            Self::AlreadyExists(_) | Self::Conflict(_) => 409,
            Self::Expired { .. } => 410,
            Self::Invalid(_) => 422,
            Self::TooLarge { .. } => 504,
            Self::Fault { code, .. } => *code,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::NotFound(_) => "NotFound",
            Self::Method => "MethodNotAllowed",
            Self::AlreadyExists(_) => "AlreadyExists",
            Self::Conflict(_) => "Conflict",
            Self::Expired { .. } => "Expired",
            Self::Invalid(_) => "Invalid",
            Self::TooLarge { .. } => "Timeout",
            Self::Fault { code, .. } => match code {
                401 => "Unauthorized",
                403 => "Forbidden",
                404 => "NotFound",
                410 => "Expired",
                429 => "TooManyRequests",
                503 => "ServiceUnavailable",
                504 => "Timeout",
                _ => "InternalError",
            },
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadRequest(message)
            | Self::NotFound(message)
            | Self::AlreadyExists(message)
            | Self::Conflict(message)
            | Self::Invalid(message) => message.clone(),
            Self::Unauthorized => "Unauthorized".to_owned(),
            Self::Method => "the server does not allow this method on the requested resource".to_owned(),
            Self::Expired { asked, oldest } => format!("too old resource version: {asked} ({oldest})"),
            Self::TooLarge { asked, current } => {
                format!("Too large resource version: {asked}, current: {current}")
            }
            Self::Fault { code, .. } => format!("a fault injected by a test: {code}"),
        }
    }

    /// The Status object that goes with it.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message(), "reason": self.reason(), "code": self.code(),
        });
        if let Self::TooLarge { .. } = self {
            status["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
        }
        if let Self::Fault { retry_after_seconds: Some(seconds), .. } = self {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        status
    }
}

/// The Status of a success that has no object to show.
pub(super) fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}
