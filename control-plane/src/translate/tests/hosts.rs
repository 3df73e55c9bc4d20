//! Hosts and names: what is callable, and by which names.

use super::*;

#[test]
fn a_registered_service_has_a_cluster_endpoints_and_a_virtual_host() {
    let seen = reviews().seen_by(&node());
    assert_eq!(seen.names(Cluster), [REVIEWS]);
    assert_eq!(
        seen.endpoints(REVIEWS),
        ["10.0.0.1:15006", "10.0.0.2:15006"]
    );
    assert_eq!(seen.names(Listener), ["http_proxy"]);
    assert_eq!(seen.names(Route), ["http_proxy"]);
    assert_eq!(seen.names(Secret), ["ROOTCA"]);
    let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    assert_eq!(routes[0]["route"]["cluster"], REVIEWS);
    assert_eq!(routes[0]["name"], "default");
}

#[test]
fn a_host_is_called_by_every_short_form_within_its_namespace_only() {
    let name = "reviews.default.svc.cluster.local:9080";
    let forms = |prefixes: &[&str]| {
        let mut forms = vec![
            "reviews.default.svc.cluster.local".to_owned(),
            "reviews.default.svc.cluster.local:9080".to_owned(),
        ];
        forms.extend(
            prefixes
                .iter()
                .flat_map(|form| [(*form).to_owned(), format!("{form}:9080")]),
        );
        forms
    };
    let here = reviews().seen_by(&node()).domains("http_proxy");
    assert_eq!(
        here[name],
        forms(&["reviews.default.svc", "reviews.default", "reviews"])
    );
    let elsewhere = NodeInfo {
        namespace: "shop".into(),
        ..node()
    };
    let elsewhere = reviews().seen_by(&elsewhere).domains("http_proxy");
    assert_eq!(
        elsewhere[name],
        forms(&["reviews.default.svc", "reviews.default"])
    );
}

#[test]
fn names_without_a_port_belong_to_port_80_or_else_the_lowest() {
    for (ports, bare) in [([9080, 80], 80), ([9080, 9081], 9080)] {
        let given = ports.iter().fold(Given::default(), |given, port| {
            given.instance("reviews", *port, "v1", &format!("10.0.0.1:{port}"))
        });
        let domains = given.seen_by(&node()).domains("http_proxy");
        for port in ports {
            let host = format!("reviews.default.svc.cluster.local:{port}");
            let has = domains[&host].contains(&"reviews".to_owned());
            assert_eq!(has, port == bare, "port {port} of {ports:?}");
            assert!(domains[&host].contains(&format!("reviews:{port}")));
        }
    }
}

#[test]
fn no_domain_is_given_twice() {
    // "reviews.default" is itself a host here, and wins over the short form.
    let given = reviews().policy(
        "entry.yaml",
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: odd}
spec:
  hosts: [reviews.example]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
",
    );
    let domains = given.seen_by(&node()).domains("http_proxy");
    let mut all: Vec<_> = domains.values().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_service_without_instances_keeps_its_cluster() {
    let given = reviews()
        .without("reviews", "10.0.0.1:15006")
        .without("reviews", "10.0.0.2:15006");
    let seen = given.seen_by(&node());
    assert_eq!(seen.endpoints(REVIEWS), Vec::<String>::new());
    let cluster = seen.json(Cluster, REVIEWS);
    assert_eq!(
        san(&cluster),
        ["spiffe://cluster.local/nobody-registered"],
        "not everybody"
    );
}

#[test]
fn a_virtual_service_for_a_host_that_nobody_serves_is_callable() {
    let yaml = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: alias}
spec:
  hosts: [books.example]
  http: [{route: [{destination: {host: reviews}}]}]
";
    let seen = reviews().policy("alias.yaml", yaml).seen_by(&node());
    assert_eq!(
        seen.routes("http_proxy", "books.example:80")[0]["route"]["cluster"],
        REVIEWS
    );
    assert_eq!(
        seen.domains("http_proxy")["books.example:80"],
        ["books.example", "books.example:80"]
    );
}
