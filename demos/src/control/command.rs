//! The commands: what there is, and how it is written.

use alloc::{format, string::String};
use core::{fmt, ops::RangeInclusive, str::SplitAsciiWhitespace};

use trapline_sched::{
    PcpuSet, Weight,
    policies::{NAMES, option_names},
};

use crate::config::{CAP, RESERVATION_US, SLICE_US};

/// How each command is written, and what it does.
pub const HELP: [(&str, &str); 17] = [
    ("help", "what there is"),
    (
        "list [vms]",
        "the VMs: what they do, and what their vCPUs shall get",
    ),
    (
        "list vcpus [VM]",
        "the vCPUs: what they do, where, and where their time went",
    ),
    ("list pools", "the pools of pCPUs, and their policies"),
    ("list pcpus", "the pCPUs, and where their time went"),
    (
        "set weight VM[/VCPU] N",
        "its share against others': 1 to 10000",
    ),
    (
        "set slice VM[/VCPU] US|default",
        "how long it runs at a time while others wait, in microseconds",
    ),
    (
        "set cap VM HUNDREDTHS|none",
        "the most that the VM gets, in hundredths of a pCPU",
    ),
    (
        "set priority VM[/VCPU] N",
        "it runs before all with less: 0 to 255",
    ),
    (
        "set budget VM[/VCPU] US PERIOD_US|none",
        "what each vCPU gets in each period in any case",
    ),
    (
        "set affinity VM[/VCPU] LIST",
        "the pCPUs that it may run on, like 0-1,3",
    ),
    (
        "policy NAME [slice_us=N] [period_us=N]",
        "who says what runs next",
    ),
    ("start VM", "turns it on"),
    ("stop VM", "ends it"),
    (
        "reset VM",
        "ends it and turns it on again, with clean memory",
    ),
    ("pause VM, resume VM", "its vCPUs stand still, and go on"),
    ("button VM", "presses its power key"),
];

/// Something that the user wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// To know the commands.
    Help,
    /// To see how things are.
    List(Listing),
    /// That vCPUs get something else.
    Set(Who, Setting),
    /// That another policy says what runs next.
    Policy {
        /// Its name; there may be no such policy.
        name: String,
        /// How long a vCPU runs while others wait, in microseconds. `None`: as until now.
        slice_us: Option<u32>,
        /// In what time a cap holds, in microseconds. `None`: as until now.
        period_us: Option<u32>,
    },
    /// That the VM of this name lives otherwise.
    Live(Life, String),
}

/// What is shown as a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing {
    /// One row for each VM.
    Vms,
    /// One row for each vCPU, of the VM of this name or of all.
    Vcpus(Option<String>),
    /// One row for each pool.
    Pools,
    /// One row for each pCPU.
    Pcpus,
}

/// A VM, or one of its vCPUs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Who {
    /// The VM's name; there may be none called so.
    pub vm: String,
    /// The vCPU's index; `None`: all.
    pub vcpu: Option<usize>,
}

/// What vCPUs shall get. Times are in microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Setting {
    /// Their share against others'.
    Weight(Weight),
    /// How long each runs at a time while others wait; `None`: as the policy has it.
    Slice(Option<u32>),
    /// The most that the whole VM gets, in hundredths of a pCPU; `None`: no limit.
    Cap(Option<u32>),
    /// They run before all with less.
    Priority(u8),
    /// A budget of at least 1 in each period of at least as much; `None`: nothing is reserved.
    Budget(Option<(u32, u32)>),
    /// Where they may run.
    Affinity(PcpuSet),
}

/// A change in a VM's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    /// It is turned on.
    Start,
    /// It ends.
    Stop,
    /// It ends and is turned on again.
    Reset,
    /// Its vCPUs stand still.
    Pause,
    /// They go on.
    Resume,
    /// Its power key is pressed.
    Button,
}

/// Why a text is no command, in words, with what there is to choose from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadCommand(pub String);

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for BadCommand {}

type Result<T> = core::result::Result<T, BadCommand>;

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(BadCommand(what.into()))
}

impl Command {
    /// Reads what `Display` writes, with any white space between the words.
    ///
    /// # Errors
    /// It is no command: what there is instead.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = Words(text.split_ascii_whitespace());
        let Some(verb) = words.0.next() else {
            return bad("there is no command: `help` has them all");
        };
        let command = match verb {
            "help" => Self::Help,
            "list" => Self::List(words.listing()?),
            "set" => words.setting()?,
            "policy" => words.policy()?,
            _ => match Life::ALL.into_iter().find(|life| life.word() == verb) {
                Some(life) => Self::Live(life, words.need("a VM")?.into()),
                None => {
                    return bad(format!(
                        "there is no command {verb:?}; there are: help list set policy {}",
                        Life::ALL.map(Life::word).join(" ")
                    ));
                }
            },
        };
        match words.0.next() {
            Some(extra) => bad(format!("{extra:?} is too much after `{command}`")),
            None => Ok(command),
        }
    }
}

impl Setting {
    /// How it is written.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Weight(_) => "weight",
            Self::Slice(_) => "slice",
            Self::Cap(_) => "cap",
            Self::Priority(_) => "priority",
            Self::Budget(_) => "budget",
            Self::Affinity(_) => "affinity",
        }
    }
}

impl Life {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Stop,
        Self::Reset,
        Self::Pause,
        Self::Resume,
        Self::Button,
    ];

    /// How it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reset => "reset",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Button => "button",
        }
    }
}

/// What is left of a command.
struct Words<'a>(SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn need(&mut self, what: &str) -> Result<&'a str> {
        let word = self.0.next();
        word.ok_or_else(|| BadCommand(format!("{what} is missing: `help` says how it is written")))
    }

    fn listing(&mut self) -> Result<Listing> {
        Ok(match self.0.next() {
            None | Some("vms") => Listing::Vms,
            Some("vcpus") => Listing::Vcpus(self.0.next().map(String::from)),
            Some("pools") => Listing::Pools,
            Some("pcpus") => Listing::Pcpus,
            Some(other) => {
                return bad(format!(
                    "there is no list of {other:?}; there are: vms vcpus pools pcpus"
                ));
            }
        })
    }

    fn setting(&mut self) -> Result<Command> {
        const SETTINGS: [&str; 6] = ["weight", "slice", "cap", "priority", "budget", "affinity"];
        let list = || SETTINGS.join(" ");
        let Some(what) = self.0.next() else {
            return bad(format!("what to set is missing; there are: {}", list()));
        };
        if !SETTINGS.contains(&what) {
            return bad(format!(
                "there is no setting {what:?}; there are: {}",
                list()
            ));
        }
        let who = Who::parse(self.need("a VM")?)?;
        let value = self.need(match what {
            "affinity" => "a list of pCPUs",
            _ => "a value",
        })?;
        let setting =
            match what {
                "weight" => Setting::Weight(weight(value)?),
                "slice" if value == "default" => Setting::Slice(None),
                "slice" => Setting::Slice(Some(within("a slice", value, SLICE_US)?)),
                "cap" if who.vcpu.is_some() => {
                    return bad(format!(
                        "a cap is for the whole VM: set cap {} {value}",
                        who.vm
                    ));
                }
                "cap" if value == "none" => Setting::Cap(None),
                "cap" => Setting::Cap(Some(within("a cap", value, CAP)?)),
                "priority" => Setting::Priority(within("a priority", value, 0..=255)? as u8),
                "budget" if value == "none" => Setting::Budget(None),
                "budget" => Setting::Budget(Some(self.budget(value)?)),
                _ => Setting::Affinity(value.parse::<PcpuSet>().map_err(|error| {
                    BadCommand(format!("{value:?} is no list of pCPUs: {error}"))
                })?),
            };
        Ok(Command::Set(who, setting))
    }

    fn budget(&mut self, budget: &str) -> Result<(u32, u32)> {
        let budget = within("a budget", budget, RESERVATION_US)?;
        let period = within("a period", self.need("a period")?, RESERVATION_US)?;
        if budget > period {
            return bad(format!(
                "a budget of {budget} us in a period of {period} us: it must be at most the period"
            ));
        }
        Ok((budget, period))
    }

    fn policy(&mut self) -> Result<Command> {
        let Some(name) = self.0.next() else {
            return bad(format!(
                "a policy is missing; there are: {}",
                NAMES.join(" ")
            ));
        };
        let (mut slice_us, mut period_us) = (None, None);
        for option in self.0.by_ref() {
            let Some((key, value)) = option.split_once('=') else {
                return bad(format!("{option:?} is no option: write it as NAME=VALUE"));
            };
            let (place, range) = match key {
                "slice_us" => (&mut slice_us, SLICE_US),
                "period_us" => (&mut period_us, RESERVATION_US),
                _ => return bad(unknown_option(name, key)),
            };
            if NAMES.contains(&name) && !option_names(name).contains(&key) {
                return bad(unknown_option(name, key));
            }
            if place.replace(within(key, value, range)?).is_some() {
                return bad(format!("{key} is given twice"));
            }
        }
        Ok(Command::Policy {
            name: name.into(),
            slice_us,
            period_us,
        })
    }
}

fn unknown_option(policy: &str, option: &str) -> String {
    match option_names(policy) {
        [] => format!("policy {policy} has no options, and not {option:?}"),
        names => format!(
            "policy {policy} has no option {option:?}; it has: {}",
            names.join(" ")
        ),
    }
}

/// A number in `range`; `what` is what it stands for.
fn within(what: &str, text: &str, range: RangeInclusive<u32>) -> Result<u32> {
    let (least, most) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| BadCommand(format!("{what} of {text:?}: it must be {least} to {most}")))
}

fn weight(text: &str) -> Result<Weight> {
    let number = within("a weight", text, 1..=u32::from(Weight::LIMIT))?;
    Ok(Weight::new(number as u16).unwrap_or_default())
}

impl Who {
    fn parse(text: &str) -> Result<Self> {
        let Some((vm, vcpu)) = text.split_once('/') else {
            return Ok(Self {
                vm: text.into(),
                vcpu: None,
            });
        };
        match vcpu.parse() {
            Ok(vcpu) => Ok(Self {
                vm: vm.into(),
                vcpu: Some(vcpu),
            }),
            Err(_) => bad(format!(
                "{vcpu:?} is no number of a vCPU: write it as {vm}/0"
            )),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(vcpu) => write!(f, "{}/{vcpu}", self.vm),
            None => f.write_str(&self.vm),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help => f.write_str("help"),
            Self::List(Listing::Vms) => f.write_str("list vms"),
            Self::List(Listing::Vcpus(None)) => f.write_str("list vcpus"),
            Self::List(Listing::Vcpus(Some(vm))) => write!(f, "list vcpus {vm}"),
            Self::List(Listing::Pools) => f.write_str("list pools"),
            Self::List(Listing::Pcpus) => f.write_str("list pcpus"),
            Self::Set(who, setting) => {
                write!(f, "set {} {who} ", setting.name())?;
                match setting {
                    Setting::Weight(weight) => write!(f, "{}", weight.get()),
                    Setting::Slice(Some(us)) => write!(f, "{us}"),
                    Setting::Slice(None) => f.write_str("default"),
                    Setting::Cap(Some(cap)) => write!(f, "{cap}"),
                    Setting::Priority(priority) => write!(f, "{priority}"),
                    Setting::Budget(Some((budget, period))) => write!(f, "{budget} {period}"),
                    Setting::Cap(None) | Setting::Budget(None) => f.write_str("none"),
                    Setting::Affinity(pcpus) => write!(f, "{pcpus}"),
                }
            }
            Self::Policy {
                name,
                slice_us,
                period_us,
            } => {
                write!(f, "policy {name}")?;
                let mut option = |name: &str, value: &Option<u32>| match value {
                    Some(value) => write!(f, " {name}={value}"),
                    None => Ok(()),
                };
                option("slice_us", slice_us)?;
                option("period_us", period_us)
            }
            Self::Live(life, vm) => write!(f, "{} {vm}", life.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9][a-z0-9._-]{0,31}"
    }

    fn who() -> impl Strategy<Value = Who> {
        (name(), proptest::option::of(0_usize..1000)).prop_map(|(vm, vcpu)| Who { vm, vcpu })
    }

    fn setting() -> impl Strategy<Value = Setting> {
        use proptest::option::of;
        let pcpus = proptest::collection::vec(0_u16..64, 1..9).prop_map(|pcpus| {
            let numbers = pcpus
                .iter()
                .map(ToString::to_string)
                .collect::<alloc::vec::Vec<_>>();
            numbers.join(",").parse().expect("numbers and commas")
        });
        prop_oneof![
            (1..=Weight::LIMIT)
                .prop_map(|weight| Setting::Weight(Weight::new(weight).expect("in range"))),
            of(SLICE_US).prop_map(Setting::Slice),
            (0..=255_u8).prop_map(Setting::Priority),
            of(RESERVATION_US.prop_flat_map(|period| (1..=period, Just(period))))
                .prop_map(Setting::Budget),
            pcpus.prop_map(Setting::Affinity),
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
            (of(SLICE_US), of(RESERVATION_US)).prop_map(|(slice_us, period_us)| Command::Policy {
                name: "credit".into(),
                slice_us,
                period_us,
            }),
            (proptest::sample::select(&NAMES[..]), Just(())).prop_map(|(name, ())| {
                Command::Policy {
                    name: name.into(),
                    slice_us: None,
                    period_us: None,
                }
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
        fn any_text_is_read_or_refused(text in "(set|list|policy|pause|help)?( weight| affinity| vcpus| budget)?( [a-z0-9/=,-]{1,8}){0,4}") {
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
                        "HUNDREDTHS|none" | "PERIOD_US|none" | "N" | "US" | "US|default" => {
                            "100".into()
                        }
                        "NAME" => "credit".into(),
                        "LIST" => "0-1".into(),
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
                "there is no command \"kill\"; there are: help list set policy start stop reset pause resume button",
            ),
            (
                "list guests",
                "there is no list of \"guests\"; there are: vms vcpus pools pcpus",
            ),
            ("pause", "a VM is missing: `help` says how it is written"),
            ("pause web db", "\"db\" is too much after `pause web`"),
            (
                "set",
                "what to set is missing; there are: weight slice cap priority budget affinity",
            ),
            (
                "set share web 1",
                "there is no setting \"share\"; there are: weight slice cap priority budget affinity",
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
                "policy pinned slice_us=90",
                "policy pinned has no options, and not \"slice_us\"",
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
}
