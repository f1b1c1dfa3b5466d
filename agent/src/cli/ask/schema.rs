// SPDX-License-Identifier: Apache-2.0
//! `cima schema`: what the JSON of the verbs looks like.

use clap::{Args, ValueEnum};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use super::{AskError, print};
use crate::{
    exit::Outcome,
    query::{Branch, Event, Explanation, File, Freshness, Shown, Sighting, Summary},
};

/// Print the JSON schema of what a verb writes with --json
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima schema event > event.schema.json
  cima schema explanation | jq -r '.properties | keys[]'

Exit codes: 0 printed, 2 usage.")]
pub struct SchemaArgs {
    /// Of what
    #[arg(value_enum)]
    of: Of,
}

/// What verbs write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// A line of events, export, watch
    Event,
    /// A line of ps
    Container,
    /// A line of files
    File,
    /// A line of whereis
    Sighting,
    /// A line of tree
    Process,
    /// What show prints
    Shown,
    /// A line of explain
    Explanation,
    /// A line of index status
    List,
}

/// The schema, as text.
#[must_use]
pub fn text(of: Of) -> String {
    let schema = match of {
        Of::Event => schema::<Event>(),
        Of::Container => schema::<Summary>(),
        Of::File => schema::<File>(),
        Of::Sighting => schema::<Sighting>(),
        Of::Process => schema::<Branch>(),
        Of::Shown => schema::<Shown>(),
        Of::Explanation => schema::<Explanation>(),
        Of::List => schema::<Freshness>(),
    };
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// Of what is written: a key that may be left out is not required.
fn schema<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>()
}

/// Runs the command.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &SchemaArgs) -> Result<Outcome, AskError> {
    let text = text(args.of);
    print(|out| out.write_all(text.as_bytes()))?;
    Ok(Outcome::Good)
}
