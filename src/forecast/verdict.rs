//! What became of a pre-trigger on arrival: the answers that its sender and the metrics get.
//!
//! Must not: judge; `judge` does.

/// What became of a pre-trigger when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is held, and acts from its start (less the lead) to its end.
    Accepted,
    /// It is held in place of an earlier one with the same id. Calls that had come for that one count for this one too,
    /// so the same event read twice changes nothing.
    Replaced,
    /// It announced no calls, and the notice with its id is gone.
    Withdrawn,
    /// It announced no calls, and no notice with its id is held.
    UnknownWithdrawal,
    /// Its life had ended before it came. Nothing changed.
    Late,
    /// It does not count, for this reason. Nothing changed, and an earlier one with the same id stays.
    Refused(Criterion),
    /// It is held, but does not act until the function's `notices_min` is reached.
    Pending,
}

/// Why a pre-trigger does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Criterion {
    /// No function has that name.
    UnknownFunction,
    /// The function is disabled: its calls would be rejected.
    FunctionDisabled,
    /// The id is empty or longer than 256 bytes.
    IdLength,
    /// The function names sources that count, and this one is not among them.
    SourceNotAllowed,
    /// The confidence is below the function's least, or no number.
    ConfidenceTooLow,
    /// The window is longer than `forecast.window-max`.
    WindowTooLong,
    /// It starts `forecast.window-max` or more from now: send it later.
    TooFarAhead,
    /// The function, or the forecaster as a whole, holds as many notices as it may.
    TooManyNotices,
    /// The source's name or its tenant's is longer than 256 bytes.
    SourceLength,
    /// As many sources as can be known hold notices, and this is not one of them.
    TooManySources,
    /// The source holds its share of all notices, or of the function's: `forecast.notices-source-share-max`.
    SourceOverShare,
    /// The tenant's sources together hold their share: `forecast.notices-tenant-share-max`.
    TenantOverShare,
    /// The source's notices would ask for more instance time than `forecast.source-budget` and what it has earned.
    SourceOverBudget,
    /// The notices of the tenant's sources together would: `forecast.tenant-budget`.
    TenantOverBudget,
    /// The source is one of the service's own, and the pre-trigger came from outside.
    SourceReserved,
    /// The function, or the tenant that is named, belongs to a tenant whose pre-triggers come on a topic of its own, and this
    /// is another topic; or that topic is this one, and they are not that tenant's.
    OtherTenant,
}

impl Verdict {
    /// A name for metric labels: one of a closed set.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Replaced => "replaced",
            Self::Withdrawn => "withdrawn",
            Self::UnknownWithdrawal => "unknown_withdrawal",
            Self::Late => "late",
            Self::Refused(_) => "refused",
            Self::Pending => "pending",
        }
    }
}

impl Criterion {
    /// A name for metric labels: one of a closed set.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownFunction => "unknown_function",
            Self::FunctionDisabled => "function_disabled",
            Self::IdLength => "id_length",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::ConfidenceTooLow => "confidence_too_low",
            Self::WindowTooLong => "window_too_long",
            Self::TooFarAhead => "too_far_ahead",
            Self::TooManyNotices => "too_many_notices",
            Self::SourceLength => "source_length",
            Self::TooManySources => "too_many_sources",
            Self::SourceOverShare => "source_over_share",
            Self::TenantOverShare => "tenant_over_share",
            Self::SourceOverBudget => "source_over_budget",
            Self::TenantOverBudget => "tenant_over_budget",
            Self::SourceReserved => "source_reserved",
            Self::OtherTenant => "other_tenant",
        }
    }
}
