use alloc::string::ToString;

use proptest::prelude::*;

use trapline_sched::policies::NAMES;

use super::*;
use crate::config::{CAP, HALT_POLL_US, RESERVATION_US, SLICE_US};

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9._-]{0,31}"
}

fn who() -> impl Strategy<Value = Who> {
    (name(), proptest::option::of(0_usize..1000)).prop_map(|(vm, vcpu)| Who { vm, vcpu })
}

fn pcpus() -> impl Strategy<Value = PcpuSet> {
    proptest::collection::vec(0_u16..64, 1..9).prop_map(|pcpus| {
        let numbers: alloc::vec::Vec<_> = pcpus.iter().map(ToString::to_string).collect();
        numbers.join(",").parse().expect("numbers and commas")
    })
}

/// One with all options, or one whose options are not known.
fn policy() -> impl Strategy<Value = PolicyChoice> {
    use proptest::option::of;
    let known = (of(SLICE_US), of(RESERVATION_US)).prop_map(|(slice_us, period_us)| PolicyChoice {
        name: "credit".into(),
        slice_us,
        period_us,
    });
    let any = proptest::sample::select(&NAMES[..]).prop_map(|name| PolicyChoice {
        name: name.into(),
        slice_us: None,
        period_us: None,
    });
    prop_oneof![known, any]
}

fn setting() -> impl Strategy<Value = Setting> {
    use proptest::option::of;
    prop_oneof![
        (1..=Weight::LIMIT)
            .prop_map(|weight| Setting::Weight(Weight::new(weight).expect("in range"))),
        of(SLICE_US).prop_map(Setting::Slice),
        HALT_POLL_US.prop_map(Setting::HaltPoll),
        (0..=255_u8).prop_map(Setting::Priority),
        of(RESERVATION_US.prop_flat_map(|period| (1..=period, Just(period))))
            .prop_map(Setting::Budget),
        pcpus().prop_map(Setting::Affinity),
        of(pcpus()).prop_map(Setting::SoftAffinity),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    use proptest::option::of;
    prop_oneof![
        Just(Command::Help),
        Just(Command::List(Listing::Vms)),
        Just(Command::List(Listing::Pools)),
        Just(Command::List(Listing::Pcpus)),
        of(name()).prop_map(|vm| Command::List(Listing::Vcpus(vm))),
        (who(), setting()).prop_map(|(who, setting)| Command::Set(who, setting)),
        (name(), of(CAP))
            .prop_map(|(vm, cap)| Command::Set(Who { vm, vcpu: None }, Setting::Cap(cap))),
        (of(name()), policy()).prop_map(|(pool, policy)| Command::Policy { pool, policy }),
        (name(), pcpus(), policy()).prop_map(|(name, pcpus, policy)| Command::CreatePool {
            name,
            pcpus,
            policy,
        }),
        (name(), name()).prop_map(|(vm, pool)| Command::SetPool { vm, pool }),
        (name(), of(name())).prop_map(|(pool, heir)| Command::RemovePool { pool, heir }),
        (0..64_u16).prop_map(|pcpu| Command::Unplug(PcpuId::new(pcpu).expect("in range"))),
        (0..64_u16).prop_map(|pcpu| Command::Plug(PcpuId::new(pcpu).expect("in range"))),
        (0..64_u16, name()).prop_map(|(pcpu, pool)| Command::MovePcpu {
            pcpu: PcpuId::new(pcpu).expect("in range"),
            pool,
        }),
        (proptest::sample::select(&Life::ALL[..]), name())
            .prop_map(|(life, vm)| Command::Live(life, vm)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(command in command()) {
        prop_assert_eq!(Command::parse(&command.to_string()), Ok(command));
    }

    /// What is read from any text is written as a text that means the same.
    #[test]
    fn any_text_is_read_or_refused(text in "(set|list|policy|pause|help|create|remove|move)?( weight| affinity| soft-affinity| vcpus| budget| pool| pcpu)?( [a-z0-9/=,-]{1,8}){0,4}") {
        if let Ok(command) = Command::parse(&text) {
            prop_assert_eq!(Command::parse(&command.to_string()), Ok(command));
        }
    }

    #[test]
    fn nothing_panics(text in ".{0,80}") {
        let _ = Command::parse(&text);
    }
}

/// Each line of the help is a command, once its variables have values.
#[test]
fn the_help_tells_the_truth() {
    for (usage, _) in HELP {
        for usage in usage.split(", ") {
            let shortest: String = usage.split('[').next().unwrap_or_default().into();
            let longest = usage.replace("VM[/VCPU]", "VM/1").replace(['[', ']'], "");
            for text in [
                usage.replace("VM[/VCPU]", "VM").replace(['[', ']'], ""),
                longest,
            ] {
                let value = |word: &str| match word {
                    "N" if !text.starts_with("set") => "3".into(),
                    "HUNDREDTHS|none" | "PERIOD_US|none" | "N" | "US" | "US|default" => {
                        "100".into()
                    }
                    "NAME" => "credit".into(),
                    "LIST" | "LIST|none" => "0-1".into(),
                    "POOL" | "HEIR" | "pool=POOL" => {
                        word.replace("HEIR", "fast").replace("POOL", "fast")
                    }
                    "POLICY" => "credit".into(),
                    option => option.replace("=N", "=100").replace("VM", "web"),
                };
                let words: alloc::vec::Vec<String> = text.split(' ').map(value).collect();
                let text = words.join(" ");
                assert!(Command::parse(&text).is_ok(), "{usage}: {text}");
            }
            assert!(!shortest.is_empty());
        }
    }
}

#[test]
fn white_space_and_short_forms() {
    let list = Ok(Command::List(Listing::Vms));
    assert_eq!(Command::parse("list"), list);
    assert_eq!(Command::parse("  list\tvms \r\n"), list);
    let budget = Command::parse("set budget web/3 2000 10000");
    let who = Who {
        vm: "web".into(),
        vcpu: Some(3),
    };
    assert_eq!(
        budget,
        Ok(Command::Set(who, Setting::Budget(Some((2000, 10_000)))))
    );
}

#[test]
fn what_is_wrong_is_said_with_what_there_is() {
    let cases = [
        ("", "there is no command: `help` has them all"),
        (
            "kill web",
            "there is no command \"kill\"; there are: help list set policy create remove move unplug plug start stop reset pause resume button",
        ),
        (
            "list guests",
            "there is no list of \"guests\"; there are: vms vcpus pools pcpus",
        ),
        ("pause", "a VM is missing: `help` says how it is written"),
        ("pause web db", "\"db\" is too much after `pause web`"),
        (
            "set",
            "what to set is missing; there are: weight slice cap priority budget halt-poll affinity soft-affinity pool",
        ),
        (
            "set share web 1",
            "there is no setting \"share\"; there are: weight slice cap priority budget halt-poll affinity soft-affinity pool",
        ),
        (
            "set weight web",
            "a value is missing: `help` says how it is written",
        ),
        (
            "set weight web 0",
            "a weight of \"0\": it must be 1 to 10000",
        ),
        (
            "set weight web 99999999999999999999",
            "a weight of \"99999999999999999999\": it must be 1 to 10000",
        ),
        (
            "set weight web -1",
            "a weight of \"-1\": it must be 1 to 10000",
        ),
        (
            "set weight web/x 1",
            "\"x\" is no number of a vCPU: write it as web/0",
        ),
        (
            "set slice web 10",
            "a slice of \"10\": it must be 50 to 10000000",
        ),
        (
            "set halt-poll web 1001",
            "a halt poll of \"1001\": it must be 0 to 1000",
        ),
        ("set cap web 0", "a cap of \"0\": it must be 1 to 6400"),
        (
            "set cap web/0 50",
            "a cap is for the whole VM: set cap web 50",
        ),
        (
            "set priority web 256",
            "a priority of \"256\": it must be 0 to 255",
        ),
        (
            "set budget web 5000 4000",
            "a budget of 5000 us in a period of 4000 us: it must be at most the period",
        ),
        (
            "set budget web 5000",
            "a period is missing: `help` says how it is written",
        ),
        (
            "set affinity web 3-1",
            "\"3-1\" is no list of pCPUs: a pCPU range must not end before it starts",
        ),
        (
            "policy",
            "a policy is missing; there are: round-robin pinned fair deadline priority credit table gang",
        ),
        (
            "policy fair period_us=9",
            "policy fair has no option \"period_us\"; it has: slice_us",
        ),
        (
            "policy pinned period_us=90",
            "policy pinned has no option \"period_us\"; it has: slice_us",
        ),
        (
            "policy fair slice_us=0",
            "slice_us of \"0\": it must be 50 to 10000000",
        ),
        (
            "policy fair 500",
            "\"500\" is no option: write it as NAME=VALUE",
        ),
        (
            "policy fair slice_us=50 slice_us=60",
            "slice_us is given twice",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(
            Command::parse(text),
            Err(BadCommand(expected.into())),
            "{text}"
        );
    }
}
