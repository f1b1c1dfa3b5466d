// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: the main job in one guest, shown to a newcomer.

use std::time::Duration;

use cima_guests::{Guests, Run, Series};

use crate::build::{self, Part};
use crate::error::{Error, Verdict};
use crate::setup::{self, Need};
use crate::{vm, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    eprintln!("cima's demo: everything happens inside an emulated machine with a software TPM.");
    setup::ensure(&[Need::Programs, Need::Probes, Need::Guests])?;
    build::build(&Part::ALL)?;
    let run = Run {
        stage: Some(workspace::stage()),
        time_limit: Duration::from_secs(300),
        environment: vec![("CIMA_GUEST_KERNEL".to_owned(), args.kernel.to_string())],
        ..Run::new(
            args.kernel,
            "demo",
            vm::scenario_command("demo", Vec::new()),
        )
    };
    let outcome = Guests::new(&workspace::target()).run(&run, &mut std::io::stdout())?;
    vm::report(&outcome)
}
