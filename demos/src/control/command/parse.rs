//! How a command is read, and what is said about a text that is none.

use alloc::{format, string::String};
use core::{ops::RangeInclusive, str::SplitAsciiWhitespace};

use trapline_sched::{
    PcpuId, PcpuSet, Weight,
    policies::{NAMES, option_names},
};

use super::{BadCommand, Command, Life, Listing, PolicyChoice, Setting, Who};
use crate::config::{CAP, HALT_POLL_US, MAX_PCPUS, RESERVATION_US, SLICE_US};

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
            "policy" => {
                let (pool, policy) = words.policy(true)?;
                Self::Policy { pool, policy }
            }
            "create" => words.pool("create")?,
            "remove" => words.pool("remove")?,
            "move" => words.pcpu()?,
            "unplug" => Self::Unplug(pcpu(words.need("a pCPU")?)?),
            "plug" => Self::Plug(pcpu(words.need("a pCPU")?)?),
            _ => match Life::ALL.into_iter().find(|life| life.word() == verb) {
                Some(life) => Self::Live(life, words.need("a VM")?.into()),
                None => {
                    return bad(format!(
                        "there is no command {verb:?}; there are: help list set policy create remove move unplug plug {}",
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
        const SETTINGS: [&str; 9] = [
            "weight",
            "slice",
            "cap",
            "priority",
            "budget",
            "halt-poll",
            "affinity",
            "soft-affinity",
            "pool",
        ];
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
        if what == "pool" {
            let pool = self.need("a pool")?.into();
            return match who.vcpu {
                None => Ok(Command::SetPool { vm: who.vm, pool }),
                Some(_) => bad(format!(
                    "a pool is for the whole VM: set pool {} {pool}",
                    who.vm
                )),
            };
        }
        let value = self.need(match what {
            "affinity" | "soft-affinity" => "a list of pCPUs",
            _ => "a value",
        })?;
        let setting = match what {
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
            "halt-poll" => Setting::HaltPoll(within("a halt poll", value, HALT_POLL_US)?),
            "affinity" => Setting::Affinity(pcpus(value)?),
            _ if value == "none" => Setting::SoftAffinity(None),
            _ => Setting::SoftAffinity(Some(pcpus(value)?)),
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

    fn pool(&mut self, verb: &str) -> Result<Command> {
        match self.0.next() {
            Some("pool") => {}
            _ => return bad(format!("what to {verb} is missing; there is: pool")),
        }
        let name = self.need("a pool")?.into();
        if verb == "remove" {
            let heir = self.0.next().map(String::from);
            return Ok(Command::RemovePool { pool: name, heir });
        }
        let pcpus = pcpus(self.need("a list of pCPUs")?)?;
        let (_, policy) = self.policy(false)?;
        Ok(Command::CreatePool {
            name,
            pcpus,
            policy,
        })
    }

    fn pcpu(&mut self) -> Result<Command> {
        match self.0.next() {
            Some("pcpu") => {}
            _ => return bad("what to move is missing; there is: pcpu"),
        }
        let pcpu = pcpu(self.need("a pCPU")?)?;
        let pool = self.need("a pool")?.into();
        Ok(Command::MovePcpu { pcpu, pool })
    }

    /// A policy with its options, and its pool if it may be said with them.
    fn policy(&mut self, has_pool: bool) -> Result<(Option<String>, PolicyChoice)> {
        let Some(name) = self.0.next() else {
            return bad(format!(
                "a policy is missing; there are: {}",
                NAMES.join(" ")
            ));
        };
        let (mut pool, mut slice_us, mut period_us) = (None, None, None);
        for option in self.0.by_ref() {
            let Some((key, value)) = option.split_once('=') else {
                return bad(format!("{option:?} is no option: write it as NAME=VALUE"));
            };
            let (place, range) = match key {
                "pool" if has_pool => {
                    pool = Some(value.into());
                    continue;
                }
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
        let policy = PolicyChoice {
            name: name.into(),
            slice_us,
            period_us,
        };
        Ok((pool, policy))
    }
}

fn unknown_option(policy: &str, option: &str) -> String {
    let names = option_names(policy).join(" ");
    format!("policy {policy} has no option {option:?}; it has: {names}")
}

/// A number in `range`; `what` is what it stands for.
fn within(what: &str, text: &str, range: RangeInclusive<u32>) -> Result<u32> {
    let (least, most) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| BadCommand(format!("{what} of {text:?}: it must be {least} to {most}")))
}

fn pcpus(text: &str) -> Result<PcpuSet> {
    let pcpus = text.parse::<PcpuSet>();
    pcpus.map_err(|error| BadCommand(format!("{text:?} is no list of pCPUs: {error}")))
}

fn pcpu(text: &str) -> Result<PcpuId> {
    let number = within("a pCPU", text, 0..=MAX_PCPUS as u32 - 1)?;
    PcpuId::new(number as u16).ok_or_else(|| BadCommand(format!("there is no pCPU {text:?}")))
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
