use super::*;

/// A session with a shell script in QEMU's place.
fn session(script: &str, timeout: Duration) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let session = Session {
        command,
        guests: ["a", "b"]
            .map(|name| (name.to_owned(), Sink::Screen))
            .into(),
        input: None,
        timeout: Some(timeout),
        is_framed: true,
        shows_console: false,
        shows_log: false,
        log: None,
        markers: &["MARK "],
        control: None,
        elf: None,
    };
    session.run().expect("sh starts")
}

const PATIENT: Duration = Duration::from_secs(60);

#[test]
fn the_hypervisors_report_is_the_status() {
    let ended = session(
        r"printf '[  0.1] MARK 1\nno\n\0\002\012\000exit 1 bad'; exit 9",
        PATIENT,
    );
    assert_eq!(
        (ended.report.status, ended.report.reason.as_str()),
        (1, "bad")
    );
    assert_eq!(ended.marked, [vec!["MARK 1"], vec![]]);
}

#[test]
fn each_guest_has_its_console_and_its_end() {
    let ended = session(
        r"printf 'MARK a\n\0\101\0\0MARK b\n\0\100\0\0MARK c\n\0\002\015\000guest 1 1 b x\0\002\006\000exit 1'",
        PATIENT,
    );
    assert_eq!(ended.marked, [vec!["MARK a", "MARK c"], vec!["MARK b"]]);
    let ends = ended.report.guests.iter();
    let ends: Vec<_> = ends
        .map(|end| (end.guest, end.name.as_str(), end.reason.as_str()))
        .collect();
    assert_eq!(ends, [(0, "a", ""), (1, "b", "x")]);
}

#[test]
fn a_machine_that_just_ends_is_a_failure_of_the_hypervisor() {
    let ended = session("echo no such device >&2; exit 1", PATIENT);
    assert_eq!(ended.report.status, HYPERVISOR_FAILED);
    assert!(
        ended.report.reason.contains("no such device"),
        "{}",
        ended.report.reason
    );
}

#[test]
fn a_panic_is_kept() {
    let ended = session(r"printf '\0\003\005\000panic\0\003\001\000!'", PATIENT);
    assert_eq!(ended.report.status, HYPERVISOR_FAILED);
    assert_eq!(ended.panic.as_deref(), Some("panic!"));
}

#[test]
fn a_hang_ends_at_the_deadline() {
    let started = Instant::now();
    let ended = session("exec sleep 60", Duration::from_millis(200));
    assert_eq!(ended.report.status, TIMEOUT);
    assert!(started.elapsed() < Duration::from_secs(30));
}
