//! What the guide quotes stands in the code: each block of Rust in it begins with the file that it is from.

use std::{fs, path::Path};

/// Lines without their indent, but for empty ones.
fn lines(text: &str) -> Vec<&str> {
    let trimmed = text.lines().map(str::trim);
    trimmed.filter(|line| !line.is_empty()).collect()
}

/// The blocks of Rust in `page`, but for those that are told to be ignored.
fn quotes<'a>(page: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut rest = page.iter().copied();
    let mut quotes = Vec::new();
    while rest.by_ref().any(|line| line == "```rust") {
        quotes.push(rest.by_ref().take_while(|&line| line != "```").collect());
    }
    quotes
}

#[test]
fn what_the_guide_quotes_stands_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut count = 0;
    for page in fs::read_dir(root.join("docs/guide")).expect("the guide is there") {
        let page = page.expect("it can be listed").path();
        let text = fs::read_to_string(&page).expect("a page is text");
        for quote in quotes(&lines(&text)) {
            let (head, quoted) = quote.split_first().expect("a quote has lines");
            let source = head.strip_prefix("// ").map(|file| root.join(file));
            let source = source.unwrap_or_else(|| panic!("{}: whose is `{head}`?", page.display()));
            let code = fs::read_to_string(&source).expect("the file that is quoted is there");
            let is_there = lines(&code)
                .windows(quoted.len())
                .any(|part| part == quoted);
            assert!(is_there, "{}: {quote:#?}", page.display());
            count += 1;
        }
    }
    assert!(count > 0, "the guide quotes something");
}
