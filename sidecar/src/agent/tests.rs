use super::*;
use crate::agent::testing::config;

#[test]
fn the_application_is_registered_at_its_own_port_with_mtls() {
    let mut config = config();
    config.app.as_mut().unwrap().port = 80;
    let app = config.app.clone().unwrap();
    let request = registration(&config, &app, SocketAddr::from(([10, 0, 0, 7], 50051)));
    assert_eq!(
        (request.address.as_str(), request.port, request.target_port),
        ("10.0.0.7", 80, 50051)
    );
    assert_eq!(
        (request.instance_id.as_str(), request.mtls),
        ("10.0.0.7:50051", true)
    );
    config.mtls = false;
    assert!(!registration(&config, &app, SocketAddr::from(([10, 0, 0, 7], 50051))).mtls);
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = AgentConfig {
        metrics: taken.local_addr().unwrap(),
        ..config()
    };
    let error = Sockets::bind(&config).map(drop).unwrap_err().to_string();
    assert!(error.contains("(--metrics); is it taken?"), "{error}");
}
