use std::time::Duration;

use super::{
    super::{Abort, Fault, HeaderMatch, Share, StringMatch},
    get, headers,
};

#[test]
fn a_share_is_exact_over_many_requests() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (share, percent) in [
        (Share::new(10, 100), 10.0),
        (Share::new(125_000, 1_000_000), 12.5),
        (Share::new(1, 10_000), 0.01),
        (Share::NONE, 0.0),
        (Share::ALL, 100.0),
        (Share::new(200, 100), 100.0),
    ] {
        let hits = (0..100_000).filter(|_| share.hits(&mut rng)).count();
        let found = hits as f64 / 1000.0;
        // Five standard deviations.
        let most = 5.0 * (percent * (100.0 - percent) / 100_000.0_f64).sqrt();
        assert!((found - percent).abs() <= most, "{found} % of {percent} %");
    }
}

#[test]
fn delay_and_abort_are_drawn_apart_and_only_for_whom_they_are_meant() {
    let fault = Fault {
        delay: Some((Duration::from_secs(1), Share::ALL)),
        abort: Some((Abort::Grpc(14), Share::NONE)),
        headers: vec![HeaderMatch {
            name: "x-test".to_owned(),
            value: StringMatch::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        }],
    };
    let mut rng = fastrand::Rng::with_seed(7);
    let (tester, other) = (headers(&[("x-test", "1")]), headers(&[]));
    let hit = fault.draw(&get("a", "/", &tester), &mut rng);
    assert_eq!(hit, (Some(Duration::from_secs(1)), None));
    let missed = fault.draw(&get("a", "/", &other), &mut rng);
    assert_eq!(missed, (None, None));
}
