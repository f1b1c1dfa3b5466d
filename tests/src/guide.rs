// SPDX-License-Identifier: Apache-2.0
//! Guides of `docs/` whose commands are run.
//!
//! A block whose language is `sh WHO` has commands of somebody, a line each, which succeed; those of `sh WHO, refused` end with
//! exit code 1. A block `said` behind it has lines that they print, in this order, others between them: `…` stands for
//! anything, and how many blanks there are does not count.

/// Commands that stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// Whose they are.
    pub(crate) who: String,
    /// What they end with.
    pub(crate) code: i32,
    pub(crate) commands: Vec<String>,
    /// What they say, abridged.
    pub(crate) said: Vec<String>,
}

/// The blocks with commands, in order.
pub(crate) fn blocks(guide: &str) -> Vec<Block> {
    enum In {
        Text,
        Commands,
        Said,
        Other,
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut place = In::Text;
    for line in guide.lines() {
        let Some(kind) = line.strip_prefix("```") else {
            match (&place, blocks.last_mut()) {
                (In::Commands, Some(block)) => block.commands.push(line.to_owned()),
                (In::Said, Some(block)) => block.said.push(line.to_owned()),
                _ => {}
            }
            continue;
        };
        place = match (place, kind.strip_prefix("sh ")) {
            (In::Text, Some(who)) => {
                let (who, code) = match who.strip_suffix(", refused") {
                    Some(who) => (who, 1),
                    None => (who, 0),
                };
                blocks.push(Block {
                    who: who.to_owned(),
                    code,
                    commands: Vec::new(),
                    said: Vec::new(),
                });
                In::Commands
            }
            (In::Text, None) if kind == "said" => In::Said,
            (In::Text, None) => In::Other,
            _ => In::Text,
        };
    }
    blocks
}

impl Block {
    /// The first line that was not said, or not behind the line before it; `None`: everything was.
    pub(crate) fn lacks(&self, output: &str) -> Option<&str> {
        let mut lines = output.lines();
        let unsaid = |said: &&String| !lines.any(|line| fits(said, line));
        let mut said = self.said.iter().filter(|said| said.trim() != "…");
        said.find(unsaid).map(String::as_str)
    }
}

/// Whether a line of a guide can be this line of an output.
fn fits(said: &str, line: &str) -> bool {
    let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (said, line) = (blanks(said), blanks(line));
    let Some((first, rest)) = said.split_once('…') else {
        return said == line;
    };
    let Some(mut line) = line.strip_prefix(first) else {
        return false;
    };
    let (between, last) = rest.rsplit_once('…').unwrap_or(("", rest));
    for part in between.split('…') {
        match line.split_once(part) {
            Some((_, behind)) => line = behind,
            None => return false,
        }
    }
    line.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::{blocks, fits};

    const GUIDE: &str = "# Guide\n\n```sh node\none\ntwo\n```\nText.\n```toml\nsh = 1\n```\n```sh operator, refused\nthree\n```\n\n```said\nline … of 3\n…\nlast\n```\n";

    #[test]
    fn commands_are_somebodys_and_what_they_say_stands_behind_them() {
        let blocks = blocks(GUIDE);
        let [node, operator] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!((node.who.as_str(), node.code), ("node", 0));
        assert_eq!(node.commands, ["one", "two"]);
        assert_eq!((operator.who.as_str(), operator.code), ("operator", 1));
        assert_eq!(operator.said, ["line … of 3", "…", "last"]);
    }

    #[test]
    fn what_was_said_is_there_in_order_and_others_between() {
        let block = &blocks(GUIDE)[1];
        assert_eq!(block.lacks("line  1 of 3\nother\nlast\nmore\n"), None);
        assert_eq!(block.lacks("last\nline 1 of 3\n"), Some("last"));
        assert_eq!(block.lacks("line 1 of 4\nlast\n"), Some("line … of 3"));
        assert_eq!(blocks(GUIDE)[0].lacks(""), None);
    }

    #[test]
    fn a_line_fits_as_far_as_it_is_told() {
        for (said, line, is) in [
            ("a b", "a    b", true),
            ("a b", "a b c", false),
            ("… b", "a b", true),
            ("a…", "abc", true),
            ("a…c…e", "a-b-c-d-e", true),
            ("a…c…e", "a-b-d-e", false),
            ("a…a", "a", false),
            ("…", "", true),
        ] {
            assert_eq!(fits(said, line), is, "{said} {line}");
        }
    }
}
