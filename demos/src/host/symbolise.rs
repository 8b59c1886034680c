//! Says which function and line each address of the hypervisor's panic report is.

use std::{fmt::Write, path::Path};

use addr2line::Loader;

/// `text` with a line after each line that mentions addresses of the image's code: the function, file and line there.
///
/// A return address points after its call, so the byte before it is looked up.
pub fn annotate(text: &str, elf: &Path) -> String {
    let Ok(loader) = Loader::new(elf) else {
        return text.to_owned();
    };
    let mut annotated = String::new();
    for line in text.lines() {
        annotated.push_str(line);
        annotated.push('\n');
        for address in addresses(line) {
            if let Some(place) = place(&loader, address.saturating_sub(1)) {
                // Writing to a string cannot fail.
                let _ = writeln!(annotated, "    {address:#x} is {place}");
            }
        }
    }
    annotated
}

/// The hexadecimal numbers in `line` that could be addresses: `0x` and at least seven digits.
fn addresses(line: &str) -> impl Iterator<Item = u64> {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.strip_prefix("0x"))
        .filter(|digits| digits.len() >= 7)
        .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
}

/// The functions around `address`, innermost first, as far as they were inlined; `None` outside the code.
fn place(loader: &Loader, address: u64) -> Option<String> {
    let mut places = Vec::new();
    let mut frames = loader.find_frames(address).ok()?;
    while let Ok(Some(frame)) = frames.next() {
        let name = frame
            .function
            .as_ref()
            .and_then(|name| name.demangle().ok());
        let name = name.map(|name| name.into_owned());
        let name = name
            .or_else(|| symbol(loader, address))
            .unwrap_or_else(|| "?".to_owned());
        let location = frame.location.as_ref();
        let file = location.and_then(|location| location.file).unwrap_or("?");
        let line = location.and_then(|location| location.line).unwrap_or(0);
        places.push(format!("{name} ({file}:{line})"));
    }
    if places.is_empty() {
        return symbol(loader, address);
    }
    Some(places.join(", inlined into "))
}

/// The function at `address` by the symbol table: line tables name only what was inlined.
fn symbol(loader: &Loader, address: u64) -> Option<String> {
    let symbol = loader.find_symbol(address)?;
    Some(addr2line::demangle_auto(symbol.into(), None).into_owned())
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    use super::*;

    #[test]
    fn only_numbers_that_could_be_code_are_looked_up() {
        let line = "pc=0x40201234 lr:0x0000000040205678, esr 0x96000045 x0=0x12 401234567";
        assert_eq!(
            addresses(line).collect::<Vec<_>>(),
            [0x4020_1234, 0x4020_5678, 0x9600_0045]
        );
    }

    /// An address in a function of this program, and a part of the function's name.
    #[inline(never)]
    fn landmark(program: &Path) -> u64 {
        let file = std::fs::read(program).expect("this program is a file");
        let object = object::File::parse(&*file).expect("an object file");
        let is_landmark = |symbol: &object::Symbol<'_, '_>| {
            symbol
                .name()
                .is_ok_and(|name| name.contains("symbolise") && name.contains("landmark"))
        };
        let symbol = object.symbols().find(is_landmark);
        symbol.expect("this function has a symbol").address()
    }

    #[test]
    fn an_address_in_the_code_has_a_name_and_a_line() {
        let program = std::env::current_exe().expect("this program is a file");
        // After the first instruction, as a return address would be; padded, because programs may lie at small addresses.
        let line = format!("called from {:#010x}", landmark(&program) + 5);
        let annotated = annotate(&line, &program);
        assert!(
            annotated.contains("landmark") && annotated.contains("symbolise.rs:"),
            "{annotated}"
        );
    }
}
