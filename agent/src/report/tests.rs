// SPDX-License-Identifier: Apache-2.0
//! What a page says of what it is given; a browser's part is tested with the command.

use super::*;
use crate::query::Branch;

fn branch(pid: u32, depth: u32) -> Branch {
    Branch {
        v: 1,
        node: "n".to_owned(),
        depth,
        pid,
        start_ns: 0,
        comm: "</summary><b>".to_owned(),
        parent_pid: None,
        circle: pid == 1,
        executions: Vec::new(),
    }
}

fn none<T>() -> Part<T> {
    Part {
        these: Vec::new(),
        left_out: None,
    }
}

fn report() -> Report {
    Report {
        asked: Asked::default(),
        lists: Vec::new(),
        notes: vec!["</script>\u{202e}\u{1b}[2J".to_owned()],
        references: 0,
        explained: Vec::new(),
        others: none(),
        violations: none(),
        events: Embedded::of(&[]),
        tree: none(),
    }
}

#[test]
fn a_report_of_nothing_is_a_page_that_says_so() {
    let page = page(&report());
    assert!(page.contains("No container is in these lists"));
    assert!(page.contains("No execution is in these lists"));
    assert!(page.contains("&lt;/script&gt;\\u{202e}\\u{1b}[2J"));
    assert_eq!(page.matches("</script>").count(), 2);
}

#[test]
fn a_tree_is_nested_no_deeper_than_browsers_nest() {
    let mut report = report();
    report.tree.these = (0..3_000).map(|depth| branch(depth, depth)).collect();
    let page = page(&report);
    assert_eq!(page.matches("<details open>").count(), 40);
    assert_eq!(
        page.matches("<details").count(),
        page.matches("</details>").count()
    );
    assert_eq!(page.matches("<li").count(), page.matches("</li>").count());
    assert!(page.contains("generation 2999"));
    assert!(page.contains("named as an ancestor of itself"));
    assert!(!page.contains("<b>"));
}

#[test]
fn processes_in_a_row_that_did_the_same_are_a_line() {
    let mut report = report();
    report.tree.these = [branch(2, 0)]
        .into_iter()
        .chain((10..60).map(|pid| branch(pid, 1)))
        .collect();
    let tree = |report: &Report| {
        let page = page(report);
        let (_, tree) = page.split_once("class=\"tree\"").unwrap();
        tree.split_once("</section>").unwrap().0.to_owned()
    };
    let page = tree(&report);
    assert!(page.contains("50 times in a row"));
    assert_eq!(page.matches("<li").count(), 2);
    // And so are those below them, but for the last, which has another child.
    let job = |pid| [branch(pid, 1), branch(pid + 1, 2), branch(pid + 2, 3)];
    report.tree.these = vec![branch(2, 0)];
    report
        .tree
        .these
        .extend([10, 20, 30].map(job).into_iter().flatten());
    report
        .tree
        .these
        .extend([branch(40, 1), branch(41, 2), branch(42, 2)]);
    let page = tree(&report);
    assert!(page.contains("3 times in a row") && page.contains("2 times in a row"));
    assert_eq!(page.matches("<li").count(), 6);
    assert_eq!(page.matches("<li").count(), page.matches("</li>").count());
}

#[test]
fn texts_are_shown_in_ascii_and_cut_with_a_note() {
    assert_eq!(text::shown("a\u{202e}b\u{0}"), "a\\u{202e}b\\u{0}");
    let long = text::shown(&"x".repeat(1_000_000));
    assert!(
        long.len() < 1_000 && long.ends_with("[... 999400 more bytes]"),
        "{long}"
    );
    assert_eq!(text::grouped(1_234_567), "1,234,567");
    assert_eq!(
        text::for_script("</script>&\u{2028}"),
        "\\u003c/script\\u003e\\u0026\\u2028"
    );
}
