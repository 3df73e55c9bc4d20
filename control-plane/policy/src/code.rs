//! The kinds of mistake that are recognised: one stable code each, for people to look up and programs to filter by.
//!
//! ```text
//! OUT01xx syntax and structure     OUT04xx shadowing and conflicts
//! OUT02xx values                   OUT05xx behaviour that surprises
//! OUT03xx references               OUT06xx not supported yet, or not by this client
//! ```
//! A code never changes its meaning and is never used again. The story of each, with a wrong and a right document,
//! stands in `stories/`; `outrigger explain` tells it, and a test applies both documents.

mod classify;
mod story;

use std::{fmt, str::FromStr};

pub use self::story::{Example, Story};
use crate::Severity;

macro_rules! codes {
    ($($variant:ident = $text:literal, $severity:ident, $title:literal;)*) => {
        /// A kind of mistake. Displays as `OUT0401`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// All, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// `OUT0401`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it is, in a few words: `a rule behind one that takes every request`.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// How bad it is, unless a finding says otherwise.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    Syntax = "OUT0101", Error, "the text is not YAML";
    Encoding = "OUT0102", Error, "a character or byte that a policy file cannot hold";
    TooLarge = "OUT0103", Error, "more text, documents or nesting than is read";
    UnknownField = "OUT0104", Error, "a field that this kind does not have";
    MissingField = "OUT0105", Error, "a field that has to be there is missing";
    WrongType = "OUT0106", Error, "a value of another type than the field has";
    KeyTwice = "OUT0107", Error, "the same key twice in one mapping";
    DocumentTwice = "OUT0108", Error, "the same document twice";
    UnknownKind = "OUT0109", Error, "a kind that does not exist";
    UnknownApiVersion = "OUT0110", Error, "an apiVersion that does not go with the kind";
    BadName = "OUT0111", Error, "a name, namespace, label or annotation that cannot be one";
    OneOf = "OUT0112", Error, "fields of which exactly one can be there";
    EmptyList = "OUT0113", Error, "a list without items where one is needed";
    Unquoted = "OUT0114", Error, "a text that other readers take for a boolean or number";
    EmptyText = "OUT0115", Error, "an empty text where one is needed";
    BadTag = "OUT0116", Error, "a YAML tag, alias or merge key that means nothing here";
    BadValue = "OUT0200", Error, "a value that the field does not take";
    OutOfRange = "OUT0201", Error, "a number outside of its range";
    BadDuration = "OUT0202", Error, "not a duration";
    BadHost = "OUT0203", Error, "not a host name";
    BadRegex = "OUT0204", Error, "not an RE2 expression";
    BadHeader = "OUT0205", Error, "a header that cannot be matched or changed";
    BadHeaderValue = "OUT0206", Error, "a header value that cannot be sent";
    UnknownWord = "OUT0207", Error, "not one of the field's words";
    BadAddress = "OUT0208", Error, "not an address or network";
    BadPath = "OUT0209", Error, "not a path";
    WeightsSum = "OUT0210", Error, "weights whose sum is nothing, or too much";
    UsedTwice = "OUT0211", Error, "a name that is used twice";
    ChangesNothing = "OUT0212", Error, "a setting that changes nothing";
    ZeroLimit = "OUT0213", Error, "a limit of 0";
    BadSelector = "OUT0214", Error, "a selector or label that nothing can have";
    WithoutEffectBeside = "OUT0215", Error, "a field that has no effect beside or without another";
    UnknownHost = "OUT0301", Warning, "a host that nobody serves";
    UnknownSubset = "OUT0302", Error, "a subset that no DestinationRule defines";
    SubsetTakenAway = "OUT0303", Error, "a subset removed to which a route leads";
    UnknownPort = "OUT0304", Warning, "a port that the service does not have";
    EgressHostUnknown = "OUT0305", Warning, "a Sidecar lists a host that nobody serves";
    EgressOtherNamespace = "OUT0306", Warning, "a Sidecar looks for a host in the wrong namespace";
    WorkloadUnselected = "OUT0307", Warning, "a WorkloadEntry that no ServiceEntry selects";
    SelectorSelectsNothing = "OUT0308", Warning, "a ServiceEntry whose selector selects nothing";
    SubsetWithoutEndpoints = "OUT0309", Warning, "a subset whose labels no endpoint has";
    NoEndpoints = "OUT0310", Warning, "a ServiceEntry without endpoints";
    SidecarSelectsNothing = "OUT0311", Warning, "a Sidecar that selects no workload";
    HostInOtherNamespace = "OUT0312", Warning, "a short host that is served in another namespace";
    PortPolicyUnknownPort = "OUT0313", Warning, "portLevelSettings for a port that the service does not have";
    MatchPortUnknown = "OUT0314", Warning, "a match on a port that no host of the document has";
    SubsetUnused = "OUT0315", Info, "a subset to which no route leads";
    EndpointPortUnknown = "OUT0316", Error, "an endpoint port name that the ServiceEntry does not have";
    SourceNamespaceUnknown = "OUT0317", Warning, "sourceNamespace names a namespace without workloads";
    SourceLabelsUnknown = "OUT0318", Warning, "sourceLabels that no workload has";
    NotInForce = "OUT0319", Error, "a document to be deleted that is not in force";
    NoDelegate = "OUT0320", Error, "a delegate that cannot be one";
    DelegateUnused = "OUT0321", Warning, "a delegate that nobody names";
    SubsetNotForAll = "OUT0322", Warning, "a subset that not all callers of a route have";
    ExportToNowhere = "OUT0323", Warning, "exportTo names no namespace that there is";
    WildcardOfNothing = "OUT0324", Warning, "a wildcard that no host falls under";
    HostMisspelt = "OUT0325", Warning, "rules for a host that nobody serves, beside one of nearly that name";
    ProviderUnknown = "OUT0326", Error, "an AuthorizationPolicy that asks a provider that there is not";
    ProviderUnused = "OUT0327", Info, "an ExtensionProvider that no AuthorizationPolicy asks";
    SecuritySelectsNothing = "OUT0328", Warning, "a security document that is for no workload";
    SecurityPortUnknown = "OUT0329", Warning, "a port that none of the workloads has";
    PrincipalOfNobody = "OUT0330", Warning, "a principal that nobody has";
    Contradiction = "OUT0400", Error, "documents that contradict each other";
    AfterCatchAll = "OUT0401", Warning, "a rule behind one that takes every request";
    TwoCatchAlls = "OUT0402", Error, "two documents that both take every request to a host";
    SubsetInTwo = "OUT0403", Error, "one subset in two DestinationRules";
    PolicyInTwo = "OUT0404", Error, "two traffic policies for one host";
    EntriesDisagree = "OUT0405", Error, "ServiceEntries for one host that do not agree";
    SameSidecars = "OUT0406", Error, "two Sidecars for the same workloads";
    OverlappingSidecars = "OUT0407", Warning, "two Sidecars that may select one workload";
    RuleShadowed = "OUT0408", Warning, "a match that an earlier rule takes entirely";
    SameMatch = "OUT0409", Warning, "two rules with the same match";
    MatchRepeated = "OUT0410", Warning, "a match that another of the same rule includes";
    SeveralDocuments = "OUT0411", Info, "several VirtualServices with rules for one host";
    WildcardRuleHidden = "OUT0412", Warning, "a host's DestinationRule puts the wildcard's out of force";
    WildcardRoutesHidden = "OUT0413", Warning, "a host's VirtualService puts the wildcard's out of force";
    SubsetDropsSettings = "OUT0414", Warning, "a subset's policy drops settings of the host's";
    PortDropsSettings = "OUT0415", Info, "a port's policy drops settings of the host's";
    SubsetsAlike = "OUT0416", Warning, "two subsets with the same labels";
    SubsetOfAll = "OUT0417", Warning, "a subset without labels";
    DestinationTwice = "OUT0418", Warning, "one destination twice in a route";
    EntryOverRegistered = "OUT0419", Info, "a ServiceEntry for a host that also registers";
    EndpointTwice = "OUT0420", Error, "one endpoint twice in a service";
    DelegateMatchesNothing = "OUT0421", Error, "a delegate whose matches leave nothing";
    ServerNameInTwo = "OUT0422", Error, "one server name in two documents";
    NotCompared = "OUT0423", Info, "rules that were not compared with those before them";
    PeerAuthenticationShadowed = "OUT0424", Warning, "a PeerAuthentication that an older one shadows";
    KeysWithoutTls = "OUT0430", Warning, "keys of an issuer by https without TLS to their host";
    IssuerInTwo = "OUT0431", Warning, "two rules for the tokens of one issuer";
    TokensNotVerified = "OUT0432", Warning, "access rules about tokens that nobody verifies";
    RetriedWrites = "OUT0501", Warning, "retries that may do a write twice";
    RetriesPastTimeout = "OUT0502", Warning, "tries that do not fit into the timeout";
    RetriesMultiply = "OUT0503", Info, "retries on several hops multiply";
    TimeoutBelowConnect = "OUT0504", Warning, "a timeout below the connect timeout";
    PerTryPastTimeout = "OUT0505", Warning, "a perTryTimeout that never ends a try";
    EjectionOfOnlyOne = "OUT0506", Warning, "outlier detection with one endpoint";
    EjectionNever = "OUT0507", Warning, "outlier detection that never ejects";
    ConnectionsBelowEndpoints = "OUT0508", Warning, "fewer connections than endpoints";
    HashHeaderRemoved = "OUT0509", Warning, "a consistent hash over a header that the route removes";
    HashHeaderConstant = "OUT0510", Warning, "a consistent hash over a header that the route sets";
    MirrorToSelf = "OUT0511", Warning, "a mirror to where the request already goes";
    FaultForAll = "OUT0512", Warning, "a fault that hits every request";
    DoubleSlash = "OUT0513", Warning, "a rewrite that makes double or lost slashes";
    PrefixWithinWord = "OUT0514", Info, "a prefix that also matches longer words";
    HopByHopMatch = "OUT0515", Warning, "a match on a header of one connection";
    OldBalancerName = "OUT0516", Info, "LEAST_CONN, the old name of LEAST_REQUEST";
    PlainToMtls = "OUT0517", Warning, "plain text towards endpoints that speak mutual TLS";
    FailoverWithoutEjection = "OUT0518", Warning, "locality failover without outlier detection";
    WarmupWithoutEffect = "OUT0519", Error, "warmup beside a balancer that has none";
    LongIdleTimeout = "OUT0520", Info, "connections kept idle longer than servers keep them";
    EjectionBelowInterval = "OUT0521", Warning, "an ejection shorter than the interval";
    ZeroWeight = "OUT0522", Info, "a destination without requests";
    ExportToNobody = "OUT0523", Warning, "exportTo: [] is everybody";
    RegexOfAll = "OUT0524", Warning, "an expression that matches everything";
    RegexOfNothing = "OUT0525", Warning, "an expression that matches nothing";
    QueryInPath = "OUT0526", Warning, "a path match with a question mark";
    PathWithoutSlash = "OUT0527", Error, "a path match that does not start with a slash";
    MethodCase = "OUT0528", Warning, "a method that no client sends";
    AuthorityElsewhere = "OUT0529", Warning, "an authority that is none of the hosts";
    HeaderInAndOut = "OUT0530", Warning, "a header that has to be there and must not";
    RedirectLoop = "OUT0531", Warning, "a redirect to itself";
    CorsAnyWithCredentials = "OUT0532", Warning, "any origin with credentials";
    CorsWithoutOrigins = "OUT0533", Error, "a corsPolicy that allows no origin";
    CorsWithoutMethods = "OUT0534", Info, "a corsPolicy that allows no method";
    ManyRetries = "OUT0535", Warning, "more tries than help";
    BackoffPastTimeout = "OUT0536", Warning, "a backoff longer than the timeout";
    OneRequestPerConnection = "OUT0537", Info, "a new connection for every request";
    EjectsAll = "OUT0538", Info, "outlier detection that may eject every endpoint";
    GatewayErrorsNeverFirst = "OUT0539", Warning, "consecutiveGatewayErrors that are never reached";
    LocalOriginWithoutSplit = "OUT0540", Error, "consecutiveLocalOriginFailures without the split";
    HashBySourceIp = "OUT0541", Warning, "a hash by source IP in a sidecar";
    HashCookieNeverSet = "OUT0542", Info, "a hash by a cookie that nobody sets";
    TlsToMeshEndpoints = "OUT0543", Warning, "TLS of another kind towards endpoints of the mesh";
    NoVerification = "OUT0544", Warning, "TLS that accepts any certificate";
    TlsInTls = "OUT0545", Warning, "TLS around TLS";
    PlainOn443 = "OUT0546", Warning, "plain HTTP to port 443";
    PortNameProtocol = "OUT0547", Warning, "a port name that says another protocol";
    HttpOnDatabasePort = "OUT0548", Warning, "HTTP on a port that speaks something else";
    HttpRulesWithoutHttp = "OUT0549", Warning, "HTTP rules for a host without HTTP ports";
    ConnectionRulesForHttp = "OUT0550", Warning, "tcp or tls rules for a host with HTTP ports alone";
    HeaderSetAndRemoved = "OUT0551", Warning, "a header that is removed and set";
    HeaderSetTwice = "OUT0552", Info, "a header set by the route and by its destination";
    HedgingPastTimeout = "OUT0553", Warning, "hedging that starts after the timeout";
    ServiceLimitsWithoutLimits = "OUT0554", Warning, "service scope without limits";
    BoundedLoadWithoutHash = "OUT0555", Warning, "bounded load without a consistent hash";
    BalancerBesideHash = "OUT0556", Error, "a balancer beside a consistent hash";
    WeightsNotHundred = "OUT0557", Info, "weights that do not sum to 100";
    DeprecatedField = "OUT0558", Info, "a field under its old name";
    OldApiVersion = "OUT0559", Info, "an old version of the API";
    TryWithoutLimit = "OUT0560", Info, "tries that may take the whole timeout";
    MirroredWrites = "OUT0561", Info, "a mirror that repeats writes";
    FailoverToItself = "OUT0562", Error, "a failover to the same region";
    RetriesOffWithSettings = "OUT0563", Error, "settings of retries that are off";
    SubsetWithoutRoute = "OUT0564", Info, "a route that ignores the subsets";
    RetryConditionWithoutEffect = "OUT0565", Warning, "a condition of retryOn that never holds";
    RetriesLimitBesideBudget = "OUT0566", Warning, "maxRetries beside a retry budget";
    SchemeUnknown = "OUT0567", Warning, "a scheme that no request has";
    PathNeverSent = "OUT0568", Warning, "a path match with a character that no path has";
    HeaderValueSpaces = "OUT0569", Warning, "a header match with spaces around the value";
    SubnetNeverKnown = "OUT0570", Info, "a match on an address that only redirected connections have";
    PolicyOfThird = "OUT0571", Info, "a policy of a third namespace, which holds for its own clients alone";
    HttpFieldWithoutHttp = "OUT0572", Warning, "an access rule that asks for HTTP where there is none";
    IdentityInPlainText = "OUT0573", Warning, "an access rule on identities where plain text gets in";
    RuleNeverHolds = "OUT0574", Warning, "an access rule that never holds";
    DisabledBesideMutual = "OUT0575", Warning, "plain text asked of servers, and mutual TLS of their callers";
    NotSupportedYet = "OUT0601", Error, "a field that is not supported yet";
    KindNotSupported = "OUT0602", Error, "a kind that is not supported yet";
    ValueNotSupported = "OUT0603", Error, "a value that is not supported yet";
    NotByClient = "OUT0604", Info, "a setting that one type of client does not follow";
}

impl Code {
    /// What it means, how it hurts, and what to write instead.
    #[must_use]
    pub fn story(self) -> Story {
        story::of(self)
    }

    /// The heading of its group: `syntax and structure`.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self.as_str().get(3..5) {
            Some("01") => "syntax and structure",
            Some("02") => "values",
            Some("03") => "references",
            Some("04") => "shadowing and conflicts",
            Some("05") => "behaviour that surprises",
            _ => "not supported yet, or not by this client",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No code is called that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode;

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no finding has this code; `outrigger explain` lists all")
    }
}

impl std::error::Error for UnknownCode {}

impl FromStr for Code {
    type Err = UnknownCode;

    /// `OUT0401`, `out0401`, `0401` and `401` alike.
    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let upper = text.trim().to_ascii_uppercase();
        let number = upper.strip_prefix("OUT").unwrap_or(&upper);
        let wanted = format!("OUT{number:0>4}");
        let mut all = Self::ALL.iter().copied();
        all.find(|code| code.as_str() == wanted).ok_or(UnknownCode)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Code;

    #[test]
    fn a_code_is_used_once_and_found_by_any_spelling() {
        let texts: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(code.as_str().to_ascii_lowercase().parse(), Ok(code));
            assert_eq!(code.as_str().trim_start_matches("OUT").parse(), Ok(code));
        }
        assert_eq!("401".parse(), Ok(Code::AfterCatchAll));
        assert!("OUT9999".parse::<Code>().is_err());
        assert!("".parse::<Code>().is_err());
    }

    #[test]
    fn codes_stand_in_order() {
        assert!(
            Code::ALL
                .windows(2)
                .all(|pair| pair[0].as_str() < pair[1].as_str())
        );
    }
}
