//! No silent setting: lists every populated field of a resource, known to our schema or not, and refuses those that
//! the conversion does not read.
//!
//! The list below is the other half of the conversion: a field is added to it together with the code that reads it.

use std::{collections::HashMap, sync::LazyLock};

use outrigger_proto::{DESCRIPTORS, xds::r#type::v3::TypedStruct};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use prost_types::Any;

use super::{Converted, FieldError, refuse};

/// Descriptors of everything in `proto`.
pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a valid descriptor set")
});

/// Fields that the conversion reads or that provably change nothing here, by message.
#[rustfmt::skip]
const READ: &[(&str, &[&str])] = &[
    // Shared
    ("envoy.config.core.v3.Address", &["socket_address", "pipe", "envoy_internal_address"]),
    // Of management servers in bootstrap files; refused elsewhere.
    ("envoy.config.core.v3.Pipe", &["path"]),
    ("envoy.config.core.v3.SocketAddress", &["protocol", "address", "port_value", "named_port"]),
    ("envoy.config.core.v3.ConfigSource", &["api_config_source", "ads", "self", "path_config_source", "resource_api_version",
        "initial_fetch_timeout"]),
    // Of secrets only; anything else than an agent's is refused where it is read.
    ("envoy.config.core.v3.ApiConfigSource", &["api_type", "grpc_services", "transport_api_version",
        "set_node_on_first_message_only"]),
    ("envoy.config.core.v3.GrpcService", &["envoy_grpc"]),
    ("envoy.config.core.v3.GrpcService.EnvoyGrpc", &["cluster_name"]),
    ("envoy.config.core.v3.SelfConfigSource", &["transport_api_version"]),
    ("envoy.config.core.v3.AggregatedConfigSource", &[]),
    // Metadata means something only to whom its keys are addressed.
    ("envoy.config.core.v3.Metadata", &["filter_metadata"]),
    ("envoy.config.core.v3.Locality", &["region", "zone", "sub_zone"]),
    ("envoy.config.core.v3.TransportSocket", &["name", "typed_config"]),
    ("envoy.config.core.v3.TypedExtensionConfig", &["name", "typed_config"]),
    ("envoy.config.core.v3.DataSource", &["inline_bytes", "inline_string", "filename"]),
    ("envoy.config.core.v3.HeaderValue", &["key", "value", "raw_value"]),
    ("envoy.config.core.v3.HeaderValueOption", &["header", "append_action", "keep_empty_value"]),
    ("envoy.type.v3.Percent", &["value"]),
    ("envoy.type.matcher.v3.StringMatcher", &["exact", "prefix", "suffix", "safe_regex", "contains", "ignore_case"]),
    ("envoy.type.matcher.v3.RegexMatcher", &["regex"]),
    // Listener
    ("envoy.config.listener.v3.Listener", &["name", "address", "filter_chains", "traffic_direction", "stat_prefix",
        "bind_to_port", "use_original_dst", "enable_reuse_port", "metadata", "listener_filters", "listener_filters_timeout",
        "continue_on_listener_filters_timeout", "additional_addresses", "default_filter_chain", "transparent"]),
    ("envoy.config.listener.v3.AdditionalAddress", &["address"]),
    ("envoy.config.listener.v3.ListenerFilter", &["name", "typed_config"]),
    ("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", &[]),
    ("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", &[]),
    ("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", &[]),
    // Named after nothing that we count by.
    ("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", &["allow_requests_without_proxy_protocol",
        "disallowed_versions", "stat_prefix"]),
    ("envoy.config.listener.v3.FilterChain", &["name", "filters", "transport_socket", "filter_chain_match", "metadata"]),
    ("envoy.config.listener.v3.FilterChainMatch", &["server_names", "transport_protocol", "application_protocols",
        "destination_port", "prefix_ranges"]),
    ("envoy.config.listener.v3.Filter", &["name", "typed_config"]),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &["stat_prefix", "cluster", "weighted_clusters",
        "idle_timeout", "max_connect_attempts", "max_downstream_connection_duration", "hash_policy"]),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster", &["clusters"]),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight", &["name", "weight"]),
    ("envoy.type.v3.HashPolicy", &["source_ip"]),
    ("envoy.type.v3.HashPolicy.SourceIp", &[]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", &["codec_type", "stat_prefix",
        "rds", "route_config", "http_filters", "forward_client_cert_details", "set_current_client_cert_details",
        "http_protocol_options", "http2_protocol_options", "normalize_path", "stream_idle_timeout", "request_timeout", "request_headers_timeout",
        "max_request_headers_kb", "use_remote_address", "skip_xff_append", "xff_num_trusted_hops", "merge_slashes",
        "path_with_escaped_slashes_action", "strip_any_host_port", "strip_matching_host_port", "server_name",
        "server_header_transformation", "common_http_protocol_options", "http2_protocol_options", "generate_request_id",
        // An id that came is always kept, and no address is taken for an internal one.
        "preserve_external_request_id", "internal_address_config", "upgrade_configs"]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig",
        &["unix_sockets", "cidr_ranges"]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig", &["upgrade_type", "enabled"]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails", &["uri"]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.Rds", &["config_source", "route_config_name"]),
    ("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", &["name", "typed_config", "is_optional", "disabled"]),
    // We never add x-envoy-* headers.
    ("envoy.extensions.filters.http.router.v3.Router", &["suppress_envoy_headers"]),
    ("envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", &["config", "transport_socket"]),
    ("envoy.config.core.v3.ProxyProtocolConfig", &["version"]),
    // TLS
    ("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    ("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", &["common_tls_context", "require_client_certificate",
        "disable_stateless_session_resumption", "disable_stateful_session_resumption"]),
    ("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", &["common_tls_context", "sni"]),
    ("envoy.extensions.transport_sockets.tls.v3.CommonTlsContext", &["tls_params", "validation_context_sds_secret_config",
        "combined_validation_context", "alpn_protocols", "tls_certificate_sds_secret_configs", "tls_certificates",
        "validation_context"]),
    ("envoy.extensions.transport_sockets.tls.v3.TlsCertificate", &["certificate_chain", "private_key"]),
    ("envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &["default_validation_context", "validation_context_sds_secret_config"]),
    ("envoy.extensions.transport_sockets.tls.v3.TlsParameters", &["tls_minimum_protocol_version", "tls_maximum_protocol_version"]),
    ("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", &["name", "sds_config"]),
    ("envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext", &["trusted_ca", "match_typed_subject_alt_names", "crl",
        "trust_chain_verification"]),
    ("envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher", &["san_type", "matcher"]),
    ("envoy.extensions.transport_sockets.tls.v3.Secret", &["name", "validation_context"]),
    // Names
    ("istio.networking.nds.v1.NameTable", &["table"]),
    // Which registry a host is of changes nothing here.
    ("istio.networking.nds.v1.NameTable.NameInfo", &["ips", "registry", "shortname", "namespace", "alt_hosts"]),
    // Route
    ("envoy.config.route.v3.RouteConfiguration", &["name", "virtual_hosts", "validate_clusters", "metadata",
        "typed_per_filter_config", "vhds"]),
    ("envoy.config.route.v3.Vhds", &["config_source"]),
    ("envoy.config.route.v3.FilterConfig", &["config", "is_optional", "disabled"]),
    // Clusters on demand (`odcds`) are asked for otherwise here.
    ("envoy.extensions.filters.http.on_demand.v3.OnDemand", &[]),
    ("envoy.config.route.v3.VirtualHost", &["name", "domains", "routes", "metadata", "include_request_attempt_count",
        "include_attempt_count_in_response", "typed_per_filter_config"]),
    ("envoy.config.route.v3.Route", &["name", "match", "route", "redirect", "direct_response", "metadata",
        "typed_per_filter_config", "stat_prefix", "request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove"]),
    ("envoy.config.route.v3.RouteMatch", &["prefix", "path", "safe_regex", "path_separated_prefix", "connect_matcher", "case_sensitive",
        "headers", "query_parameters", "grpc"]),
    ("envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions", &[]),
    ("envoy.config.route.v3.RouteMatch.ConnectMatcher", &[]),
    ("envoy.config.route.v3.HeaderMatcher", &["name", "present_match", "string_match", "invert_match", "treat_missing_header_as_empty"]),
    ("envoy.config.route.v3.QueryParameterMatcher", &["name", "string_match", "present_match"]),
    ("envoy.config.route.v3.RouteAction", &["cluster", "weighted_clusters", "timeout", "prefix_rewrite", "regex_rewrite",
        "host_rewrite_literal", "hash_policy", "retry_policy", "request_mirror_policies", "upgrade_configs"]),
    ("envoy.config.route.v3.RouteAction.UpgradeConfig", &["upgrade_type", "enabled", "connect_config"]),
    ("envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig", &[]),
    ("envoy.type.matcher.v3.RegexMatchAndSubstitute", &["pattern", "substitution"]),
    // Tried endpoints are left out exactly, so that it does not matter how often Envoy would look for another.
    ("envoy.config.route.v3.RetryPolicy", &["retry_on", "num_retries", "per_try_timeout", "retriable_status_codes",
        "retry_back_off", "retry_host_predicate", "host_selection_retry_max_attempts", "retry_priority"]),
    ("envoy.config.route.v3.RetryPolicy.RetryBackOff", &["base_interval", "max_interval"]),
    ("envoy.config.route.v3.RetryPolicy.RetryHostPredicate", &["name", "typed_config"]),
    ("envoy.config.route.v3.RetryPolicy.RetryPriority", &["name", "typed_config"]),
    ("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]),
    ("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", &["update_frequency"]),
    ("envoy.config.route.v3.RouteAction.RequestMirrorPolicy", &["cluster", "runtime_fraction", "trace_sampled",
        "disable_shadow_host_suffix_append", "host_rewrite_literal"]),
    // There is no runtime here that a key could name.
    ("envoy.config.core.v3.RuntimeFractionalPercent", &["default_value", "runtime_key"]),
    ("envoy.type.v3.FractionalPercent", &["numerator", "denominator"]),
    ("envoy.extensions.filters.http.cors.v3.Cors", &[]),
    ("envoy.extensions.filters.http.cors.v3.CorsPolicy", &["allow_origin_string_match", "allow_methods", "allow_headers",
        "expose_headers", "max_age", "allow_credentials", "filter_enabled", "forward_not_matching_preflights"]),
    // Named after nothing that we count by: Envoy's names of counters.
    ("envoy.extensions.filters.http.rbac.v3.RBAC", &["rules", "shadow_rules", "rules_stat_prefix", "shadow_rules_stat_prefix"]),
    ("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &["rbac"]),
    // Named after nothing that we count by.
    ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", &["grpc_service", "http_service", "transport_api_version",
        "failure_mode_allow", "failure_mode_allow_header_add", "with_request_body", "clear_route_cache", "status_on_error",
        "filter_enabled_metadata", "stat_prefix", "allowed_headers", "disallowed_headers", "include_tls_session"]),
    ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", &["disabled"]),
    ("envoy.extensions.filters.http.ext_authz.v3.BufferSettings", &["max_request_bytes", "allow_partial_message", "pack_as_bytes"]),
    // The cluster says where the server is; nobody resolves the URI.
    ("envoy.extensions.filters.http.ext_authz.v3.HttpService", &["server_uri", "path_prefix", "authorization_request",
        "authorization_response"]),
    ("envoy.config.core.v3.HttpUri", &["uri", "cluster", "timeout"]),
    ("envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest", &["allowed_headers", "headers_to_add"]),
    ("envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse", &["allowed_upstream_headers",
        "allowed_upstream_headers_to_append", "allowed_client_headers", "allowed_client_headers_on_success"]),
    // We never add x-envoy-* headers.
    ("envoy.config.core.v3.GrpcService", &["envoy_grpc", "timeout", "initial_metadata"]),
    ("envoy.config.core.v3.GrpcService.EnvoyGrpc", &["cluster_name", "authority", "skip_envoy_headers"]),
    ("envoy.type.matcher.v3.ListStringMatcher", &["patterns"]),
    ("envoy.type.matcher.v3.MetadataMatcher", &["filter", "path", "value"]),
    ("envoy.type.matcher.v3.MetadataMatcher.PathSegment", &["key"]),
    ("envoy.type.matcher.v3.ValueMatcher", &["string_match"]),
    // A connection's facts do not change while it lasts.
    ("envoy.extensions.filters.network.rbac.v3.RBAC", &["rules", "shadow_rules", "stat_prefix", "shadow_rules_stat_prefix",
        "enforcement_type"]),
    ("envoy.config.rbac.v3.RBAC", &["action", "policies"]),
    ("envoy.config.rbac.v3.Policy", &["permissions", "principals"]),
    ("envoy.config.rbac.v3.Permission", &["and_rules", "or_rules", "any", "header", "destination_ip", "destination_port",
        "not_rule", "requested_server_name", "url_path", "destination_port_range", "uri_template", "metadata"]),
    ("envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", &["path_template"]),
    ("envoy.config.rbac.v3.Permission.Set", &["rules"]),
    ("envoy.config.rbac.v3.Principal", &["and_ids", "or_ids", "any", "authenticated", "source_ip", "header", "not_id",
        "url_path", "direct_remote_ip", "remote_ip", "metadata"]),
    ("envoy.type.matcher.v3.MetadataMatcher", &["filter", "path", "value", "invert"]),
    ("envoy.type.matcher.v3.MetadataMatcher.PathSegment", &["key"]),
    ("envoy.type.matcher.v3.ValueMatcher", &["null_match", "double_match", "string_match", "bool_match", "present_match",
        "list_match", "or_match"]),
    ("envoy.type.matcher.v3.ValueMatcher.NullMatch", &[]),
    ("envoy.type.matcher.v3.DoubleMatcher", &["range", "exact"]),
    ("envoy.type.v3.DoubleRange", &["start", "end"]),
    ("envoy.type.matcher.v3.ListMatcher", &["one_of"]),
    ("envoy.type.matcher.v3.OrMatcher", &["value_matchers"]),
    // There is one route here for all requests of an inbound listener, so that it cannot change (`clear_route_cache`).
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", &["providers", "rules", "bypass_cors_preflight",
        "requirement_map", "strip_failure_response", "stat_prefix"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider", &["issuer", "audiences", "remote_jwks", "local_jwks", "forward",
        "from_headers", "from_params", "forward_payload_header", "payload_in_metadata", "clock_skew_seconds",
        "pad_forward_payload_header", "jwt_cache_config", "from_cookies", "claim_to_headers",
        "normalize_payload_in_metadata", "subjects", "require_expiration", "max_lifetime"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload", &["space_delimited_claims"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtHeader", &["name", "value_prefix"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtCacheConfig", &["jwt_cache_size", "jwt_max_token_size"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader", &["header_name", "claim_name"]),
    // Keys are always fetched beside the requests; a listener waits for them for a moment only.
    ("envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks", &["http_uri", "cache_duration", "async_fetch"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch", &["fast_listener", "failed_refetch_duration"]),
    ("envoy.config.core.v3.HttpUri", &["uri", "cluster", "timeout"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.RequirementRule", &["match", "requires", "requirement_name"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement", &["provider_name", "provider_and_audiences", "requires_any",
        "requires_all", "allow_missing_or_failed", "allow_missing"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences", &["provider_name", "audiences"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList", &["requirements"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList", &["requirements"]),
    ("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", &["disabled", "requirement_name"]),
    ("envoy.config.rbac.v3.Principal.Set", &["ids"]),
    ("envoy.config.rbac.v3.Principal.Authenticated", &["principal_name"]),
    ("envoy.config.core.v3.CidrRange", &["address_prefix", "prefix_len"]),
    ("envoy.type.matcher.v3.PathMatcher", &["path"]),
    ("envoy.type.v3.Int32Range", &["start", "end"]),
    ("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", &["stat_prefix", "status", "token_bucket",
        "filter_enabled", "filter_enforced", "response_headers_to_add", "request_headers_to_add_when_not_enforced",
        "enable_x_ratelimit_headers", "rate_limited_as_resource_exhausted"]),
    ("envoy.type.v3.HttpStatus", &["code"]),
    ("envoy.type.v3.TokenBucket", &["max_tokens", "tokens_per_fill", "fill_interval"]),
    ("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", &["mutations", "most_specific_header_mutations_wins"]),
    ("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", &["mutations"]),
    ("envoy.extensions.filters.http.header_mutation.v3.Mutations", &["request_mutations", "response_mutations"]),
    ("envoy.config.common.mutation_rules.v3.HeaderMutation", &["remove", "append", "remove_on_match"]),
    ("envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch", &["key_matcher"]),
    ("envoy.extensions.filters.http.fault.v3.HTTPFault", &["delay", "abort", "headers"]),
    ("envoy.extensions.filters.http.fault.v3.FaultAbort", &["http_status", "grpc_status", "percentage"]),
    ("envoy.extensions.filters.common.fault.v3.FaultDelay", &["fixed_delay", "percentage"]),
    ("envoy.config.route.v3.WeightedCluster", &["clusters"]),
    ("envoy.config.route.v3.WeightedCluster.ClusterWeight", &["name", "weight", "request_headers_to_add",
        "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy", &["header", "cookie", "connection_properties", "query_parameter", "terminal"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.Header", &["header_name"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.Cookie", &["name", "ttl", "path", "attributes"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute", &["name", "value"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties", &["source_ip"]),
    ("envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter", &["name"]),
    ("envoy.config.route.v3.RedirectAction", &["host_redirect", "path_redirect", "response_code", "https_redirect",
        "scheme_redirect", "strip_query", "port_redirect", "prefix_rewrite", "regex_rewrite"]),
    ("envoy.config.route.v3.DirectResponseAction", &["status", "body"]),
    // Cluster
    ("envoy.config.cluster.v3.Cluster", &["name", "type", "eds_cluster_config", "connect_timeout", "lb_policy",
        "circuit_breakers", "outlier_detection", "ring_hash_lb_config", "least_request_lb_config", "maglev_lb_config",
        "round_robin_lb_config", "transport_socket", "metadata", "common_lb_config", "load_assignment",
        "typed_extension_protocol_options", "load_balancing_policy", "transport_socket_matches",
        "upstream_connection_options", "cluster_type", "dns_refresh_rate", "respect_dns_ttl", "dns_failure_refresh_rate",
        "dns_lookup_family"]),
    ("envoy.config.cluster.v3.Cluster.CustomClusterType", &["name", "typed_config"]),
    ("envoy.extensions.clusters.aggregate.v3.ClusterConfig", &["clusters"]),
    ("envoy.config.cluster.v3.Cluster.RefreshRate", &["base_interval", "max_interval"]),
    ("envoy.config.cluster.v3.UpstreamConnectionOptions", &["tcp_keepalive"]),
    ("envoy.config.core.v3.TcpKeepalive", &["keepalive_probes", "keepalive_time", "keepalive_interval"]),
    ("envoy.config.cluster.v3.Cluster.EdsClusterConfig", &["eds_config", "service_name"]),
    ("envoy.config.cluster.v3.Cluster.RingHashLbConfig", &["minimum_ring_size", "maximum_ring_size", "hash_function"]),
    ("envoy.config.cluster.v3.Cluster.LeastRequestLbConfig", &["choice_count", "slow_start_config"]),
    ("envoy.config.cluster.v3.Cluster.SlowStartConfig", &["slow_start_window", "aggression", "min_weight_percent"]),
    // Nobody overrides values at run time here.
    ("envoy.config.core.v3.RuntimeDouble", &["default_value", "runtime_key"]),
    ("envoy.config.cluster.v3.Cluster.MaglevLbConfig", &["table_size"]),
    ("envoy.config.cluster.v3.Cluster.RoundRobinLbConfig", &["slow_start_config"]),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig", &["healthy_panic_threshold", "locality_weighted_lb_config",
        "consistent_hashing_lb_config"]),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig", &[]),
    ("envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig", &["hash_balance_factor"]),
    ("envoy.config.cluster.v3.Cluster.TransportSocketMatch", &["name", "match", "transport_socket"]),
    ("envoy.config.cluster.v3.LoadBalancingPolicy", &["policies"]),
    ("envoy.config.cluster.v3.LoadBalancingPolicy.Policy", &["typed_extension_config"]),
    ("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest", &["choice_count", "slow_start_config",
        "locality_lb_config"]),
    ("envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin", &["slow_start_config", "locality_lb_config"]),
    ("envoy.extensions.load_balancing_policies.random.v3.Random", &["locality_lb_config"]),
    ("envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash", &["hash_function", "minimum_ring_size",
        "maximum_ring_size", "consistent_hashing_lb_config", "locality_weighted_lb_config"]),
    ("envoy.extensions.load_balancing_policies.maglev.v3.Maglev", &["table_size", "consistent_hashing_lb_config",
        "locality_weighted_lb_config"]),
    ("envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality", &["endpoint_picking_policy"]),
    ("envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig", &["slow_start_window", "aggression", "min_weight_percent"]),
    ("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig", &["locality_weighted_lb_config"]),
    ("envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig", &[]),
    ("envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig", &["hash_balance_factor"]),
    ("envoy.config.cluster.v3.CircuitBreakers", &["thresholds"]),
    // What is left of a limit is always reported.
    ("envoy.config.cluster.v3.CircuitBreakers.Thresholds", &["priority", "max_connections", "max_pending_requests",
        "max_requests", "max_retries", "track_remaining", "retry_budget"]),
    ("envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget", &["budget_percent", "min_retry_concurrency"]),
    ("envoy.config.cluster.v3.OutlierDetection", &["consecutive_5xx", "interval", "base_ejection_time", "max_ejection_percent",
        "enforcing_consecutive_5xx", "enforcing_success_rate", "consecutive_gateway_failure",
        "enforcing_consecutive_gateway_failure", "split_external_local_origin_errors", "consecutive_local_origin_failure",
        "enforcing_consecutive_local_origin_failure", "enforcing_local_origin_success_rate", "enforcing_failure_percentage", "max_ejection_time",
        "max_ejection_time_jitter", "always_eject_one_host"]),
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", &["common_http_protocol_options", "explicit_http_config",
        "use_downstream_protocol_config"]),
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig", &["http_protocol_options", "http2_protocol_options"]),
    ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig", &["http_protocol_options", "http2_protocol_options"]),
    ("envoy.config.core.v3.HttpProtocolOptions", &["idle_timeout", "max_connection_duration", "max_requests_per_connection",
        "max_headers_count"]),
    // HTTP/1.0 is always served.
    ("envoy.config.core.v3.Http1ProtocolOptions", &["accept_http_10"]),
    // What a connection takes is said by `upgrade_configs`, and by the server's settings.
    ("envoy.config.core.v3.Http2ProtocolOptions", &["max_concurrent_streams", "allow_connect"]),
    // Endpoint. Locality weights count only with `locality_weighted_lb_config` (as in Envoy).
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", &["cluster_name", "endpoints", "policy"]),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy", &["overprovisioning_factor"]),
    ("envoy.config.endpoint.v3.LocalityLbEndpoints", &["locality", "lb_endpoints", "load_balancing_weight", "priority", "metadata"]),
    ("envoy.config.endpoint.v3.LbEndpoint", &["endpoint", "health_status", "metadata", "load_balancing_weight"]),
    ("envoy.config.endpoint.v3.Endpoint", &["address"]),
];

/// Fields outside our schema that may be there: message and number.
const HARMLESS: &[(&str, u32)] = &[
    // `total_weight`, deprecated: every client takes the sum of the weights.
    ("envoy.config.route.v3.WeightedCluster", 3),
];

static BY_MESSAGE: LazyLock<HashMap<&'static str, &'static [&'static str]>> =
    LazyLock::new(|| READ.iter().copied().collect());

/// Messages inside each other. `Any` starts a new count in the decoder, so that it alone does not bound this.
const MAX_DEPTH: u32 = 64;
const HTTP_FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
pub(crate) const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// `type.googleapis.com/a.b.C` → `a.b.C`
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

/// Refuses `any` if it sets something that the conversion would not look at.
pub(crate) fn check(any: &Any) -> Converted<()> {
    walk(&decode(&any.type_url, &any.value)?, MAX_DEPTH)
}

/// Decodes with reflection, which keeps unknown fields.
pub(crate) fn decode(type_url: &str, bytes: &[u8]) -> Converted<DynamicMessage> {
    let name = type_name(type_url);
    let Some(descriptor) = POOL.get_message_by_name(name) else {
        return refuse("", format!("type {name:?} is not supported yet"));
    };
    DynamicMessage::decode(descriptor, bytes)
        .map_err(|error| FieldError::new("", format!("not a valid {name}: {error}")))
}

/// `depth` more levels may follow.
fn walk(message: &DynamicMessage, depth: u32) -> Converted<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return refuse(
            "",
            format!("more than {MAX_DEPTH} messages inside each other"),
        );
    };
    let descriptor = message.descriptor();
    let name = descriptor.full_name();
    if name == "google.protobuf.Any" {
        let inner = decode(&text(message, "type_url"), &bytes(message, "value"))?;
        return walk(&inner, depth);
    }
    if name.starts_with("google.protobuf.") || is_skipped_filter(name, message) {
        return Ok(());
    }
    let Some(read) = BY_MESSAGE.get(name) else {
        return refuse("", format!("{name} is not supported yet"));
    };
    for unknown in message.unknown_fields() {
        if !HARMLESS.contains(&(name, unknown.number())) {
            return refuse(
                "",
                format!("field {} of {name} is not supported yet", unknown.number()),
            );
        }
    }
    for (field, value) in message.fields() {
        let field_name = field.name();
        if !read.contains(&field_name) {
            return refuse(field_name, "not supported yet");
        }
        walk_value(value, depth).map_err(|error| match value {
            // The index or key is already in the path, as `[0]`.
            Value::List(_) | Value::Map(_) => FieldError {
                path: format!("{field_name}{}", error.path),
                message: error.message,
            },
            _ => error.under(field_name),
        })?;
    }
    Ok(())
}

fn walk_value(value: &Value, depth: u32) -> Converted<()> {
    match value {
        Value::Message(message) => walk(message, depth),
        Value::List(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            walk_value(item, depth).map_err(|error| error.under(format!("[{index}]")))
        }),
        Value::Map(entries) => {
            // Sorted, so that the same resource is always refused in the same words.
            let mut entries: Vec<_> = entries
                .iter()
                .map(|(key, item)| (key.as_str().unwrap_or("?"), item))
                .collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            entries.into_iter().try_for_each(|(key, item)| {
                walk_value(item, depth).map_err(|error| error.under(format!("[{key:?}]")))
            })
        }
        _ => Ok(()),
    }
}

/// Istio's filters that tell its own telemetry about its own proxies, or choose ALPN names that only they know. Istio
/// does not mark them optional; without them every request goes the same way.
const ONLY_AMONG_ISTIO: [&str; 4] = [
    "io.istio.http.peer_metadata.Config",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "stats.PluginConfig",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
];

/// Whether a filter may be left out whoever sends it. It may be inside a `TypedStruct`.
pub(crate) fn is_only_among_istio(any: &Any) -> bool {
    let name = type_name(&any.type_url);
    let inner = match name {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            let inner = TypedStruct::decode(any.value.as_slice());
            inner.map(|inner| inner.type_url).unwrap_or_default()
        }
        _ => return ONLY_AMONG_ISTIO.contains(&name),
    };
    ONLY_AMONG_ISTIO.contains(&type_name(&inner))
}

/// A filter that we do not know and that may be left out: off, optional, or Istio's own business. What we know is
/// looked at even then: an access rule that is optional is not one that may be half done.
fn is_skipped_filter(name: &str, message: &DynamicMessage) -> bool {
    let flag = |field| {
        message
            .get_field_by_name(field)
            .and_then(|value| value.as_bool())
            .unwrap_or(false)
    };
    let config = match name {
        HTTP_FILTER => "typed_config",
        FILTER_CONFIG => "config",
        _ => return false,
    };
    let may_be_missing = flag("is_optional") || flag("disabled");
    let config = message.get_field_by_name(config).and_then(|config| {
        let config = config.as_message()?;
        Some(Any {
            type_url: text(config, "type_url"),
            value: bytes(config, "value"),
        })
    });
    match config {
        None => may_be_missing,
        Some(any) if is_only_among_istio(&any) => true,
        Some(any) => may_be_missing && !is_known(&any),
    }
}

/// Whether the conversion reads messages of this type somewhere.
pub(crate) fn is_known(any: &Any) -> bool {
    BY_MESSAGE.contains_key(type_name(&any.type_url))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message
        .get_field_by_name(field)
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn bytes(message: &DynamicMessage, field: &str) -> Vec<u8> {
    message
        .get_field_by_name(field)
        .and_then(|value| value.as_bytes().map(|bytes| bytes.to_vec()))
        .unwrap_or_default()
}

#[cfg(test)]
mod documented;
