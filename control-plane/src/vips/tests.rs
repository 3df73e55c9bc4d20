use super::*;

fn host(name: &str) -> HostName {
    HostName::canonical(name, "default", "cluster.local")
}

fn hosts(names: &[&str]) -> BTreeSet<HostName> {
    names.iter().map(|name| host(name)).collect()
}

fn pools(v4: &str) -> VipPools {
    VipPools::with(&[v4.parse().unwrap()]).unwrap()
}

fn of(pool: &Pool, name: &str) -> Option<Vip> {
    pool.given().get(&host(name)).copied()
}

const HOUR: u64 = 60 * 60 * 1000;

#[test]
fn an_address_is_the_hosts_alone_and_not_one_that_is_reserved() {
    let names: Vec<String> = (0..2000).map(|n| format!("service-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut pool = Pool::new(VipPools::default(), []);
    pool.settle(&hosts(&names), 0);
    let given: Vec<Vip> = pool.given().values().copied().collect();
    let v4: BTreeSet<_> = given.iter().filter_map(|vip| vip.v4).collect();
    let v6: BTreeSet<_> = given.iter().filter_map(|vip| vip.v6).collect();
    assert_eq!((v4.len(), v6.len()), (2000, 2000));
    let pools = VipPools::default();
    assert!(v4.iter().all(|one| pools.v4.contains((*one).into())));
    assert!(v6.iter().all(|one| pools.v6.contains((*one).into())));
    for reserved in ["240.240.0.0", "240.240.255.254", "240.240.255.255"] {
        assert!(!v4.contains(&reserved.parse().unwrap()), "{reserved}");
    }
    assert!(!v6.contains(&"2001:2::ffff".parse().unwrap()));
}

#[test]
fn a_service_keeps_its_address_whoever_comes_and_goes() {
    let mut pool = Pool::new(pools("240.240.0.0/26"), []);
    pool.settle(&hosts(&["orders"]), 0);
    let first = of(&pool, "orders").unwrap();
    for round in 0..50 {
        let names: Vec<String> = (0..50).map(|n| format!("s{}", n + round)).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("orders");
        pool.settle(&hosts(&names), round * HOUR);
        assert_eq!(of(&pool, "orders"), Some(first));
    }
}

#[test]
fn an_address_rests_for_an_hour_and_returns_to_who_comes_back() {
    // Five addresses for services.
    let mut pool = Pool::new(pools("10.0.0.0/29"), []);
    pool.settle(&hosts(&["a", "b", "c", "d", "e"]), 0);
    let a = of(&pool, "a").unwrap();
    pool.settle(&hosts(&["b", "c", "d", "e"]), 1000);
    assert_eq!(of(&pool, "a"), None);
    pool.settle(&hosts(&["b", "c", "d", "e", "f"]), HOUR);
    assert_eq!(of(&pool, "f").unwrap().v4, None, "a's rests");
    pool.settle(&hosts(&["a", "b", "c", "d", "e", "f"]), HOUR);
    assert_eq!(of(&pool, "a"), Some(a));
    pool.settle(&hosts(&["b", "c", "d", "e", "f"]), HOUR);
    pool.settle(&hosts(&["b", "c", "d", "e", "f"]), 2 * HOUR);
    assert_eq!(of(&pool, "f").unwrap().v4, a.v4);
}

#[test]
fn where_all_are_taken_the_rest_go_without_and_have_ipv6() {
    let mut pool = Pool::new(pools("10.0.0.0/29"), []);
    pool.settle(&hosts(&["a", "b", "c", "d", "e", "f", "g"]), 0);
    assert_eq!(pool.missing.len(), 2);
    let without = pool.given().values().filter(|vip| vip.v4.is_none()).count();
    assert_eq!(without, 2);
    assert!(pool.given().values().all(|vip| vip.v6.is_some()));
}

#[test]
fn what_is_stored_is_what_a_new_process_gives() {
    let mut pool = Pool::new(VipPools::default(), []);
    let mut stored: BTreeMap<String, Record> = BTreeMap::new();
    let mut keep = |changed: BTreeMap<HostName, Option<Record>>| {
        for (host, record) in changed {
            match record {
                Some(record) => stored.insert(host.to_string(), record),
                None => stored.remove(host.as_str()),
            };
        }
        stored.clone()
    };
    keep(pool.settle(&hosts(&["a", "b", "c"]), 0));
    let records = keep(pool.settle(&hosts(&["a", "b"]), 1000));
    let text = serde_json::to_string(&records).unwrap();
    let records: BTreeMap<String, Record> = serde_json::from_str(&text).unwrap();
    let mut again = Pool::new(VipPools::default(), records);
    assert_eq!(again.given().len(), 2);
    assert!(again.settle(&hosts(&["a", "b"]), 2000).is_empty());
    again.settle(&hosts(&["a", "b", "c"]), 3000);
    pool.settle(&hosts(&["a", "b", "c"]), 3000);
    for name in ["a", "b", "c"] {
        assert_eq!(of(&again, name), of(&pool, name), "{name}");
    }
}

#[test]
fn of_another_network_every_service_has_a_new_address() {
    let mut pool = Pool::new(VipPools::default(), []);
    let changed = pool.settle(&hosts(&["a"]), 0);
    let records = changed.into_iter();
    let records = records.map(|(host, record)| (host.to_string(), record.unwrap()));
    let mut moved = Pool::new(pools("10.9.0.0/16"), records);
    let changed = moved.settle(&hosts(&["a"]), 0);
    assert_eq!(changed.len(), 1);
    let v4 = of(&moved, "a").unwrap().v4.unwrap();
    assert!(v4.to_string().starts_with("10.9."), "{v4}");
    assert_eq!(of(&moved, "a").unwrap().v6, of(&pool, "a").unwrap().v6);
}

#[test]
fn a_network_that_is_no_pool_is_refused() {
    for (nets, words) in [
        (&["10.0.0.0/30"][..], "8 to 29 bits"),
        (&["10.0.0.0/7"], "8 to 29 bits"),
        (&["2001:db8::/120"], "16 to 112 bits"),
        (&["127.0.0.0/16"], "addresses that nothing else has"),
        (
            &["10.0.0.0/16", "10.1.0.0/16"],
            "one network of each family",
        ),
    ] {
        let nets: Vec<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let error = VipPools::with(&nets).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
