// SPDX-License-Identifier: Apache-2.0
//! Texts from outside, as a page may show them.

use std::fmt::Write as _;

use maud::{Markup, html};

/// Bytes of a text that are shown, at most. A path has no more than 4,095, and every one of them may be escaped to four.
pub(super) const MOST: usize = 600;

/// A text as it may be shown: in printable ASCII, which nothing can reorder or hide in, and no longer than [`MOST`], with a note of
/// what is missing.
pub(super) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (at, char) in text.char_indices() {
        if shown.len() >= MOST {
            let more = text.len() - at;
            _ = write!(shown, " [... {more} more bytes]");
            break;
        }
        match char {
            ' '..='~' => shown.push(char),
            _ => shown.extend(char.escape_unicode()),
        }
    }
    shown
}

/// `text` in the type that paths, digests and names are set in.
pub(super) fn code(text: &str) -> Markup {
    html! { code { (shown(text)) } }
}

/// A digest by its first digits; the whole is under it, and printed.
pub(super) fn digest(digest: &str) -> Markup {
    html! { code.digest { (shown(digest)) } }
}

/// A time to the millisecond, without what is the same in every time.
pub(super) fn time(time: &str) -> Markup {
    let short = match time.strip_suffix('Z') {
        Some(time) if time.len() == 26 && time.is_ascii() => time[..23].replace('T', " "),
        _ => shown(time),
    };
    html! { time datetime=(shown(time)) { (short) } }
}

/// A dash for what there is not.
pub(super) fn or_dash(text: Option<&str>, show: impl Fn(&str) -> Markup) -> Markup {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => show(text),
        None => html! { span.none { "-" } },
    }
}

/// `1 file`, `1,234 files`.
pub(super) fn counted(count: u64, one: &str, more: &str) -> String {
    let noun = if count == 1 { one } else { more };
    format!("{} {noun}", grouped(count))
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// JSON as the content of an element `script`: nothing in it ends the element, begins a comment, or is a line's end to a script.
pub(super) fn for_script(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                _ = write!(safe, "\\u{:04x}", u32::from(char));
            }
            _ => safe.push(char),
        }
    }
    safe
}
