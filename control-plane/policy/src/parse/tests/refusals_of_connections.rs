//! Rules for connections that are wrong, and the very words in which that is said.

use super::refusals::refused;

#[test]
fn rules_of_connections_are_refused_in_words_that_help() {
    refused(
        "VirtualService",
        &[
            (
                "{hosts: [a], tls: [{}], tcp: [{}]}",
                &[
                    "f:4:26: spec.tls[0].match: missing; want which server names",
                    "f:4:26: spec.tls[0].route: missing; want where connections go",
                    "f:4:37: spec.tcp[0].route: missing; want where connections go",
                ],
            ),
            (
                "{hosts: [a.example.com], tls: [{match: [{sniHosts: ['*.example.com', b.example.com, '*']}], route: [{destination: {host: a}}]}]}",
                &[
                    "f:4:59: spec.tls[0].match[0].sniHosts[0]: found \"*.example.com\", which is under none of the document's hosts; add it to them",
                    "f:4:76: spec.tls[0].match[0].sniHosts[1]: found \"b.example.com\", which is under none of the document's hosts; add it to them",
                    "f:4:91: spec.tls[0].match[0].sniHosts[2]: found \"*\": \"*\" would be every host of the mesh; name the hosts, or write *.suffix",
                ],
            ),
            (
                "{hosts: [a], tls: [{match: [{sniHosts: [], port: 0, gateways: [x]}], route: []}]}",
                &[
                    "f:4:46: spec.tls[0].match[0].sniHosts: found an empty list, want at least one item",
                    "f:4:56: spec.tls[0].match[0].port: found the number 0, want a whole number from 1 to 65535",
                    "f:4:70: spec.tls[0].match[0].gateways[0]: the gateway \"x\" is not supported yet; want mesh, or no gateways",
                    "f:4:83: spec.tls[0].route: found an empty list, want at least one item",
                ],
            ),
            (
                "{hosts: [a], tcp: [{match: [{sourceSubnet: 10.0.0.0/8, destinationSubnets: [10.0.0.0/33, a], sniHosts: [a], sourceLabels: {a: 1}}], route: [{destination: {host: a}, headers: {}}]}]}",
                &[
                    "f:4:36: spec.tcp[0].match[0].sourceSubnet: not supported yet; remove it, nothing would act on it",
                    "f:4:83: spec.tcp[0].match[0].destinationSubnets[0]: found \"10.0.0.0/33\", want an address such as 10.1.2.3, or a network such as 10.1.0.0/16",
                    "f:4:96: spec.tcp[0].match[0].destinationSubnets[1]: found \"a\", want an address such as 10.1.2.3, or a network such as 10.1.0.0/16",
                    "f:4:100: spec.tcp[0].match[0].sniHosts: unknown field; a match has destinationSubnets, port, sourceLabels, sourceNamespace, gateways",
                    "f:4:133: spec.tcp[0].match[0].sourceLabels.a: found the number 1, want a text; write \"1\" in quotes",
                    "f:4:172: spec.tcp[0].route[0].headers: unknown field; a route has destination, weight",
                ],
            ),
            (
                "{hosts: [a], tcp: [{match: [], route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
                &[
                    "f:4:34: spec.tcp[0].match: found an empty list, want at least one item",
                    "f:4:45: spec.tcp[0].route: the weights sum to 0, so no request could go anywhere; give one a weight above 0",
                ],
            ),
        ],
    );
}
