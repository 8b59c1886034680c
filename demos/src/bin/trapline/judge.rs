//! What a guest's console says for or against it.

/// What the stock guest prints when its workload went well; see `setup/init.sh`.
const WORKLOAD: &str = "trapline: workload ";
const WORKLOAD_OK: &str = "trapline: workload ok";
/// What Linux prints when it gives up; it then resets the machine or stays, as its command line says.
const LINUX_PANIC: &str = "Kernel panic";
/// The stress guest prints its verdict in a line that starts so.
const VERDICT: &str = "STRESS ";
const PASS: &str = "STRESS PASS";

/// What is expected of a guest that powers off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Judge {
    /// Nothing.
    #[default]
    Anything,
    /// If it is Linux, that it does not panic.
    NoPanic,
    /// That the stock guest's workload goes well.
    Workload,
    /// That the stress guest passes.
    Stress,
}

impl Judge {
    /// The starts of the lines that [`Judge::complaint`] must see.
    pub const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Anything => &[],
            Self::NoPanic | Self::Workload => &[WORKLOAD, LINUX_PANIC],
            Self::Stress => &[VERDICT],
        }
    }

    /// What `lines` say against the guest.
    pub fn complaint(self, lines: &[String]) -> Option<String> {
        let panic = lines.iter().find(|line| line.starts_with(LINUX_PANIC));
        match self {
            Self::Anything => None,
            Self::NoPanic => panic.cloned(),
            Self::Workload => {
                let is_ok = lines.iter().any(|line| line == WORKLOAD_OK);
                let not_ok = (!is_ok).then(|| "the workload did not end well".into());
                panic.cloned().or(not_ok)
            }
            Self::Stress => match lines.iter().rfind(|line| line.starts_with(VERDICT)) {
                Some(verdict) if verdict.starts_with(PASS) => None,
                Some(verdict) => Some(verdict.clone()),
                None => Some("the stress guest gave no verdict".into()),
            },
        }
    }

    /// It ends by itself.
    pub const fn is_batch(self) -> bool {
        matches!(self, Self::Workload | Self::Stress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_has_its_judge() {
        let says = |judge: Judge, lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            judge.complaint(&lines)
        };
        let panic = "Kernel panic - not syncing";
        assert_eq!(says(Judge::Anything, &[panic]), None);
        assert_eq!(says(Judge::NoPanic, &[]), None);
        assert_eq!(says(Judge::NoPanic, &[panic]).as_deref(), Some(panic));
        assert_eq!(says(Judge::Workload, &[WORKLOAD_OK]), None);
        assert_eq!(
            says(Judge::Workload, &[WORKLOAD_OK, panic]).as_deref(),
            Some(panic)
        );
        assert!(says(Judge::Workload, &["trapline: workload failed"]).is_some());
        assert_eq!(says(Judge::Stress, &["STRESS PASS vcpus=2"]), None);
        assert_eq!(
            says(Judge::Stress, &["STRESS FAIL x"]).as_deref(),
            Some("STRESS FAIL x")
        );
        assert!(says(Judge::Stress, &[]).is_some());
    }
}
