use super::*;
use crate::config::Tls;

#[test]
fn a_server_name_replaces_the_address() {
    let config = Files::new().parse(&with("# serverName: kubernetes", "serverName: kubernetes")).unwrap();
    let name = tls_of(&config).server_name(config.backends[0].address);
    assert_eq!(name, ServerName::try_from("kubernetes").unwrap());
}

#[test]
fn a_client_certificate_is_used() {
    let identity = "certificateFile: /client.crt\n    keyFile: /client.key";
    let config = Files::new().parse(&with("# serverName: kubernetes", identity)).unwrap();
    assert!(tls_of(&config).client().client_auth_cert_resolver.has_certs());
    let config = Files::new().parse(EXAMPLE).unwrap();
    assert!(!tls_of(&config).client().client_auth_cert_resolver.has_certs());
}

fn tls_of(config: &Config) -> &Tls {
    match &config.health_check.check {
        Check::Https(_, tls) | Check::Tls(tls) => tls,
        other => panic!("{other:?}"),
    }
}

/// The example with other kinds of checks, which have no use for some of its lines.
fn with_kind(kind: &str, fields: &str) -> String {
    let start = EXAMPLE.find("healthCheck:").unwrap();
    let end = EXAMPLE.find("# /metrics and /healthz").unwrap();
    format!("{}healthCheck: {{kind: {kind}{fields}}}\n{}", &EXAMPLE[..start], &EXAMPLE[end..])
}

#[test]
fn other_kinds_of_checks_need_less() {
    let parse = |kind, fields| Files::new().parse(&with_kind(kind, fields)).unwrap().health_check.check;
    assert_eq!(parse("tcp", ""), Check::Tcp);
    assert!(matches!(parse("tls", ", tls: {caFile: /etc/kubernetes/pki/ca.crt}"), Check::Tls(_)));
    let Check::Http(http) = parse("http", ", path: /health, expectBody: well") else { panic!("not http") };
    assert_eq!((http.path.as_str(), http.expect_body.as_deref()), ("/health", Some("well")));
    let vain = ", path: /, tls: {caFile: /nowhere}";
    let expected = "healthCheck.path: has no effect with this kind of check\n\
                    healthCheck.tls: has no effect with this kind of check";
    assert_eq!(problems(&with_kind("tcp", vain)), expected);
    assert_eq!(problems(&with_kind("tls", "")), "healthCheck.tls: is required");
}

#[test]
fn a_status_may_be_one_or_several() {
    let cases: [(&str, &[u16], &[u16]); 4] = [
        ("200", &[200], &[199, 201, 500]),
        ("200-299", &[200, 250, 299], &[199, 300]),
        ("[200, 401]", &[200, 401], &[201, 400, 402]),
        ("[200-204, '301-302']", &[200, 204, 301, 302], &[205, 300, 303]),
    ];
    for (written, among, others) in cases {
        let text = with("expectStatus: 200", &format!("expectStatus: {written}"));
        let config = Files::new().parse(&text).unwrap();
        let Check::Https(http, _) = config.health_check.check else { panic!("{written}") };
        let includes = |code: &u16| http.expect_status.includes((*code).try_into().unwrap());
        assert!(among.iter().all(includes) && !others.iter().any(includes), "{written}");
    }
}

#[test]
fn what_is_never_and_what_follows_from_the_interval() {
    let check =
        |find: &str, replacement: &str| Files::new().parse(&with(find, replacement)).unwrap().health_check;
    assert_eq!(check("kill: 10", "kill: 0").kill, None);
    assert_eq!(check("kill: 10", "kill: 2").kill, Some(defaults::FALL));
    assert_eq!(
        check("drainDeadline: 0s", "drainDeadline: 90s").drain_deadline,
        Some(Duration::from_secs(90))
    );
    assert_eq!(check("drainDeadline: 0s", "drainDeadline: 0s").drain_deadline, None);
    for (interval, fast) in [(10, 10), (40, 10), (1000, 200)] {
        let text = shortest().replace("healthCheck:", &format!("healthCheck:\n  interval: {interval}ms"));
        let fast_interval = Files::new().parse(&text).unwrap().health_check.fast_interval;
        assert_eq!(fast_interval, Duration::from_millis(fast), "{interval}");
    }
}

#[test]
fn what_a_library_says_of_a_file_is_passed_on() {
    let cases = [
        (
            "caFile: /etc/kubernetes/pki/ca.crt",
            "caFile: /broken.crt",
            "healthCheck.tls.caFile: is not valid PEM: ",
        ),
        (
            "# serverName: kubernetes",
            "certificateFile: /client.crt\n    keyFile: /nonsense",
            "healthCheck.tls.keyFile: holds no PEM private key: ",
        ),
        (
            "# serverName: kubernetes",
            "certificateFile: /client.crt\n    keyFile: /other.key",
            "healthCheck.tls.keyFile: does not fit the certificate: ",
        ),
    ];
    for (find, replacement, expected) in cases {
        let problems = problems(&with(find, replacement));
        assert!(problems.starts_with(expected) && problems.lines().count() == 1, "{problems}");
    }
}
