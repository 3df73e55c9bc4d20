//! A call that is not carried out: one type for gRPC and HTTP/JSON, so that both say the same.

use http::StatusCode;
use tonic::{Code, Status};

use crate::{caller::Denied, store::StoreError};

/// What kind, which field, and in words what was found and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// Field of the request as the proto names it.
    pub(crate) field: Option<&'static str>,
    pub(crate) message: String,
}

impl Refusal {
    /// A field that is wrong in itself.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Code::InvalidArgument,
            field: Some(field),
            message: message.into(),
        }
    }

    /// Anything else.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            field: None,
            message: message.into(),
        }
    }

    /// For JSON and for the `reason` label of metrics.
    pub(crate) const fn name(&self) -> &'static str {
        match self.code {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::PermissionDenied => "permission_denied",
            Code::Unauthenticated => "unauthenticated",
            Code::ResourceExhausted => "resource_exhausted",
            Code::FailedPrecondition => "failed_precondition",
            Code::Unavailable => "unavailable",
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => "internal",
        }
    }

    /// For HTTP/JSON.
    pub(crate) const fn http_status(&self) -> StatusCode {
        match self.code {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal.field {
            Some(field) => Self::new(refusal.code, format!("{field}: {}", refusal.message)),
            None => Self::new(refusal.code, refusal.message),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code, denied.message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::new(Code::Unavailable, error.to_string())
    }
}
