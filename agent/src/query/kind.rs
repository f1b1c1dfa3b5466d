// SPDX-License-Identifier: Apache-2.0
//! What can happen, in one word each.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $word:literal;)+) => {
        /// What happened, or was listed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema, ValueEnum)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its word.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// In the index.
            #[must_use]
            pub(super) fn code(self) -> u8 {
                match self { $(Self::$name => $code,)+ }
            }

            /// [`Kind::code`] taken back.
            #[must_use]
            pub(super) fn of_code(code: u8) -> Self {
                match code { $($code => Self::$name,)+ _ => Self::Unknown }
            }
        }
    };
}

// The codes are the index's: a change of one needs another version of it.
kinds! {
    /// A program was executed
    Exec = 1, "exec";
    /// A file was mapped executable
    Map = 2, "map";
    /// A script was executed, or what `binfmt_misc` hands on
    Script = 3, "script";
    /// The kernel read a file on a task's behalf: a module, firmware
    KernelRead = 4, "kernel-read";
    /// A measured file was opened for writing while in use
    Write = 5, "write";
    /// A mapping was made executable afterwards
    Mprotect = 6, "mprotect";
    /// Memory without a file is executable
    Anonymous = 7, "anonymous";
    /// The kernel took code from memory
    KernelLoad = 8, "kernel-load";
    /// An execution was refused
    Refused = 9, "refused";
    /// A container was made, or refused
    Created = 10, "created";
    /// A container is no more
    Gone = 11, "gone";
    /// The first process of a container ended
    Ended = 12, "ended";
    /// Namespaces were made
    Unshare = 13, "unshare";
    /// A task joined namespaces: podman exec, nsenter
    Join = 14, "join";
    /// A mount namespace got another root
    Pivot = 15, "pivot";
    /// The agent started
    Start = 16, "start";
    /// The agent stopped in order
    Stop = 17, "stop";
    /// Events were lost
    Loss = 18, "loss";
    /// The agent's own parts
    Parts = 19, "parts";
    /// A policy was taken
    Policy = 20, "policy";
    /// Listed for verifiers: an image
    Image = 21, "image";
    /// Listed for verifiers: a file and its digest
    Measured = 22, "measured";
    /// Listed for verifiers: what should not be
    Violation = 23, "violation";
    /// Listed for verifiers: a part of the agent
    Agent = 24, "agent";
    /// Listed for verifiers: what anchors the list
    Sink = 25, "sink";
    /// An entry of the host's own list that is not cima's
    Host = 26, "host";
    /// What this version does not know, or what cannot be read
    Unknown = 27, "unknown";
}

impl Kind {
    /// Whether it says for verifiers what other events say with time and process: shown only if asked for.
    #[must_use]
    pub fn is_repetition(self) -> bool {
        matches!(
            self,
            Self::Image | Self::Measured | Self::Agent | Self::Sink | Self::Host
        )
    }

    /// Whether it is an execution in some way.
    #[must_use]
    pub fn is_execution(self) -> bool {
        matches!(
            self,
            Self::Exec | Self::Map | Self::Script | Self::KernelRead
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_word_and_one_code() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_code(kind.code()), *kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
            let value = kind.to_possible_value().unwrap();
            assert_eq!(value.get_name(), kind.word());
        }
        assert_eq!(Kind::of_code(0), Kind::Unknown);
    }
}
