use super::*;
use crate::config::WindowConfig;

fn guest(name: &str, vcpus: usize, affinity: &str) -> GuestRequest {
    let lists = affinity.split(':').filter(|list| !list.is_empty());
    GuestRequest {
        name: name.into(),
        affinity: lists.map(str::to_owned).collect(),
        ..GuestRequest::new(GuestSource::Stock, String::new(), vcpus)
    }
}

fn request(policy: &str, guests: Vec<GuestRequest>) -> Request {
    Request {
        guests,
        pcpus: 4,
        cpu: "max".into(),
        gic: GicVersion::V3,
        policy: PolicyConfig::new(policy, 5000),
        pools: Vec::new(),
        is_counting: false,
        is_bare: false,
        hypervisor: "hypervisor".into(),
        place: Place::default(),
    }
}

#[track_caller]
fn refuse(request: &Request, said: &str) {
    let failure = request.check_plain_values().expect_err(said).to_string();
    assert!(failure.contains(said), "{failure}");
}

#[test]
fn affinity_is_for_each_vcpu_or_for_all() {
    let affinities =
        |lists, vcpus| request("round-robin", vec![guest("a", vcpus, lists)]).check_plain_values();
    assert_eq!(affinities("", 2), Ok(vec![vec![0b1111; 2]]));
    assert_eq!(affinities("0-1", 3), Ok(vec![vec![0b11; 3]]));
    assert_eq!(
        affinities("0-1:2:3,0", 3),
        Ok(vec![vec![0b11, 0b100, 0b1001]])
    );
    for (lists, vcpus) in [("0:1", 3), ("4", 1), ("a", 1), ("3-1", 1), ("0:1:2", 2)] {
        let failure = affinities(lists, vcpus).expect_err(lists);
        assert!(failure.to_string().contains("--affinity"));
    }
}

#[test]
fn a_gicv2_serves_eight_cpus() {
    let with = |vcpus, pcpus| Request {
        gic: GicVersion::V2,
        pcpus,
        ..request(
            "round-robin",
            vec![guest("a", 1, ""), guest("b", vcpus, "")],
        )
    };
    assert!(with(8, 8).check_plain_values().is_ok());
    refuse(&with(9, 8), "`b` has 9 vCPUs, and a GICv2 serves 8");
    refuse(&with(8, 9), "the machine has 9 pCPUs, and a GICv2 serves 8");
}

#[test]
fn a_device_is_given_once() {
    let with = |name, devices: &[PassedDevice]| GuestRequest {
        devices: devices.to_vec(),
        ..guest(name, 1, "")
    };
    let [clock, pins] = PassedDevice::SINGLE;
    let apart = vec![with("a", &[clock]), with("b", &[pins])];
    assert!(request("round-robin", apart).check_plain_values().is_ok());
    let said = "the machine's pl031 is given twice";
    let two = vec![with("a", &[clock, pins]), with("b", &[clock])];
    refuse(&request("round-robin", two), said);
    refuse(&request("round-robin", vec![with("a", &[clock; 2])]), said);
}

#[test]
fn names_are_single_words_and_differ() {
    for name in ["", "two words", "-x", "a\nb", "ä", "a/b", &"a".repeat(33)] {
        refuse(
            &request("round-robin", vec![guest(name, 1, "")]),
            "is no name",
        );
    }
    let twins = vec![guest("a", 1, ""), guest("a", 1, "")];
    refuse(
        &request("round-robin", twins),
        "two guests have the name `a`",
    );
    let file = |path: &str| GuestSource::File(path.into()).name();
    assert_eq!(file("/boot/my kernel.bin"), "my-kernel.bin");
    assert_eq!((file("/"), file("--").as_str()), ("guest".into(), "guest"));
}

#[test]
fn sums_have_limits() {
    refuse(&request("round-robin", vec![]), "no guest");
    let many = (0..9).map(|index| guest(&index.to_string(), 64, ""));
    refuse(&request("round-robin", many.collect()), "576 vCPUs");
    let many = (0..33).map(|index| guest(&index.to_string(), 1, ""));
    refuse(&request("round-robin", many.collect()), "33 guests");
    refuse(
        &request("lottery", vec![guest("a", 1, "")]),
        "unknown policy",
    );
}

#[test]
fn pinned_guests_share_no_pcpu() {
    let pair = |first, second| request("pinned", vec![guest("a", 1, first), guest("b", 1, second)]);
    assert!(pair("0-1", "2").check_plain_values().is_ok());
    refuse(&pair("0-1", ""), "`b` has no affinity");
    refuse(&pair("0-2", "1-3"), "`a` and `b` overlap on pCPU 1-2");
    assert!(
        request("pinned", vec![guest("a", 8, "")])
            .check_plain_values()
            .is_ok()
    );
}

#[test]
fn a_place_is_an_option_or_a_line() {
    assert_eq!(Place::default().of("memory"), "--memory");
    let mut place = Place {
        file: Some(("two.toml".into(), Some(("vm `a`".into(), 3)))),
        lines: BTreeMap::from([("memory".into(), 7)]),
    };
    assert_eq!(place.of("memory"), "two.toml:7: memory of vm `a`");
    assert_eq!(place.of("append"), "two.toml:3: vm `a`");
    place.file = Some(("two.toml".into(), None));
    assert_eq!(place.of("memory"), "two.toml:7: memory");
    assert_eq!(place.of("cpu"), "--cpu");
}

fn with(entitlement: EntitlementConfig, name: &str, vcpus: usize) -> GuestRequest {
    GuestRequest {
        entitlement,
        ..guest(name, vcpus, "")
    }
}

fn reserved(budget: u32, period: u32) -> EntitlementConfig {
    EntitlementConfig {
        reservation_us: Some((budget, period)),
        ..EntitlementConfig::default()
    }
}

#[test]
fn the_policy_says_before_the_start_what_it_cannot_keep() {
    let good = vec![
        with(reserved(2000, 5000), "a", 4),
        with(reserved(4000, 7000), "b", 4),
    ];
    assert!(request("deadline", good).check_plain_values().is_ok());
    let bad = vec![with(reserved(4000, 5000), "a", 5)];
    refuse(&request("deadline", bad), "policy `deadline` refuses `a`");
    let capped = EntitlementConfig {
        cap: Some(401),
        ..EntitlementConfig::default()
    };
    for policy in ["credit", "fair"] {
        refuse(
            &request(policy, vec![with(capped, "a", 8)]),
            "a cap of 401 hundredths of a pCPU, and its pool `all` has 400",
        );
    }
}

#[test]
fn a_table_has_windows_on_pcpus_that_are_there() {
    let two = || vec![guest("a", 1, ""), guest("b", 1, "")];
    let table = |pcpus, guest| {
        let mut request = request("table", two());
        request.policy.windows = vec![WindowConfig {
            pcpus,
            guest,
            us: 500,
        }];
        request
    };
    refuse(&request("table", two()), "needs a table");
    refuse(
        &table(0b10000, Some(0)),
        "a window is on pcpu4, and there are 4 pCPUs",
    );
    refuse(&table(1, Some(0)), "policy `table` refuses `b`");
    let mut wrong = table(1, Some(0));
    wrong.policy.name = "fair".into();
    refuse(&wrong, "policy `fair` has no windows");
    let mut good = table(1, Some(0));
    good.policy.windows.push(WindowConfig {
        pcpus: 0b110,
        guest: Some(1),
        us: 100,
    });
    assert!(good.check_plain_values().is_ok());
}
