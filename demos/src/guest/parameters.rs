//! What the command line asks of a guest: words of the form `key=value`.

/// The words of a kernel command line; words that a program does not know are left alone.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    /// The parameters in this command line.
    pub const fn new(command_line: &'a str) -> Self {
        Self(command_line)
    }

    /// The value of the last word `key=value`, as on the kernel's own command line.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.0
            .split_ascii_whitespace()
            .rev()
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The value as a number, decimal or with `0x` hexadecimal; `default` if it is missing or no number.
    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.text(key).and_then(parse).unwrap_or(default)
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::Parameters;

    #[test]
    fn the_last_word_of_a_key_wins_and_the_rest_is_left_alone() {
        let parameters = Parameters::new("quiet seed=0x10 seconds=3 seed=17 console=ttyAMA0");
        assert_eq!(parameters.number("seed", 1), 17);
        assert_eq!(parameters.number("seconds", 1), 3);
        assert_eq!(parameters.number("limit", 5), 5);
        assert_eq!(parameters.text("quiet"), None);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        let parameters = Parameters::new("a=0x1f b=31 c=x");
        assert_eq!(parameters.number("a", 0), 31);
        assert_eq!(parameters.number("b", 0), 31);
        assert_eq!(parameters.number("c", 9), 9);
    }
}
