//! What `--plot` draws is an SVG that others can read, and is not the larger the longer it is.

use roxmltree::Document;
use trapline_demos::host::sim::plot::{self, Panel};

use crate::{Shown, run, run_under};

fn panel(shown: &Shown) -> Panel<'_> {
    Panel {
        scenario: &shown.scenario,
        outcome: &shown.outcome,
        summary: &shown.summary,
    }
}

fn svg(shown: &[Shown]) -> String {
    let panels: Vec<Panel<'_>> = shown.iter().map(panel).collect();
    let svg = plot::svg(&shown[0].file, &panels, 0..shown[0].scenario.duration);
    svg.expect("it can be drawn")
}

/// What is written in the picture.
fn words(svg: &str) -> Vec<String> {
    let document = Document::parse(svg).expect("well-formed XML");
    assert!(document.root_element().has_tag_name("svg"));
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .filter_map(|node| node.text())
        .map(|text| text.trim().to_owned())
        .collect()
}

#[track_caller]
fn expect(words: &[String], expected: &[&str]) {
    for expected in expected {
        assert!(
            words.iter().any(|word| word == expected),
            "no `{expected}` in {words:?}"
        );
    }
}

#[test]
fn each_pcpu_has_a_lane_and_each_vm_a_name() {
    let words = words(&svg(&[run("weights")]));
    expect(
        &words,
        &["fair, seed 1: who ran where", "one", "two", "four", "ms"],
    );
    expect(&words, &["pcpu0", "pcpu1", "pcpu2", "pcpu3"]);
    assert!(!words.iter().any(|word| word == "pcpu4"));
    expect(&words, &["Nobody waited to be woken."]);
}

#[test]
fn latencies_are_drawn_where_somebody_woke() {
    let words = words(&svg(&[run("sleepers")]));
    expect(
        &words,
        &["from wake-up to run", "us", "% of wake-ups", "pcpu0"],
    );
}

#[test]
fn several_policies_are_drawn_one_below_the_other() {
    let shown = ["fair", "round-robin"].map(|policy| run_under("weights", Some(policy)));
    let words = words(&svg(&shown));
    expect(
        &words,
        &[
            "fair, seed 1: who ran where",
            "round-robin, seed 1: who ran where",
        ],
    );
}

#[test]
fn many_pcpus_share_lanes() {
    let svg = svg(&[run("big")]);
    let words = words(&svg);
    expect(&words, &["pcpu0-3", "pcpu252-255", "heavy x16"]);
    assert!(svg.len() < 16 << 20, "{} bytes", svg.len());
}
