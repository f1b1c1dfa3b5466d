// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench admission`: what cima's hook adds to `podman run --rm IMAGE true`, when the image is new and when
//! it was measured before; and the time of measuring beside `openssl dgst` of the same files. The guest plays
//! (`tests/src/scenarios/bench_admission.rs`).

use std::time::Duration;

use cima_guests::{Guests, Run, Series};
use serde::{Deserialize, Serialize};

use crate::build::{self, Part};
use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::{vm, workspace};

pub(super) const ABOUT: &str = "what the hook adds to podman run";

/// An image that was measured before may add so much to the time without a hook.
const AGAIN_TARGET: f64 = 1.10;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// How often each is timed
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Megabytes of the images
    #[arg(long, value_delimiter = ',', default_values_t = [5, 200])]
    sizes: Vec<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What `bench all` runs.
    pub(super) fn usual(kernel: Series, json: bool) -> Self {
        Self {
            kernel,
            rounds: 20,
            sizes: vec![5, 200],
            json,
        }
    }
}

/// What the guest noted: milliseconds of each round.
#[derive(Deserialize)]
struct Notes {
    images: Vec<Image>,
    hook_ms: Vec<f64>,
}

#[derive(Deserialize)]
struct Image {
    megabytes: u64,
    files: u64,
    without_ms: Vec<f64>,
    first_ms: Vec<f64>,
    again_ms: Vec<f64>,
    measuring_ms: Vec<f64>,
    openssl_ms: Vec<f64>,
    again_measuring_ms: Vec<f64>,
    again_admitting_ms: Vec<f64>,
}

/// Medians of an image, in milliseconds.
#[derive(Serialize)]
struct Medians {
    megabytes: u64,
    files: u64,
    without_hook: f64,
    first_time: f64,
    measured_before: f64,
    /// Measured before, to no hook: of the medians.
    ratio: f64,
    measuring_first: f64,
    openssl: f64,
    measuring_again: f64,
    answering_again: f64,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl Medians {
    fn of(image: &Image) -> Self {
        let (without_hook, measured_before) = (median(&image.without_ms), median(&image.again_ms));
        Self {
            megabytes: image.megabytes,
            files: image.files,
            without_hook,
            first_time: median(&image.first_ms),
            measured_before,
            ratio: measured_before / without_hook,
            measuring_first: median(&image.measuring_ms),
            openssl: median(&image.openssl_ms),
            measuring_again: median(&image.again_measuring_ms),
            answering_again: median(&image.again_admitting_ms),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Verdict, Error> {
    setup::ensure(&[Need::Programs, Need::Probes, Need::Guests])?;
    build::build(&Part::ALL)?;
    let sizes: Vec<_> = args.sizes.iter().map(u64::to_string).collect();
    let words = vec![
        "--rounds".to_owned(),
        args.rounds.to_string(),
        "--sizes".to_owned(),
        sizes.join(","),
    ];
    let run = Run {
        stage: Some(workspace::stage()),
        time_limit: Duration::from_secs(90 * 60),
        ..Run::new(
            args.kernel,
            "bench-admission",
            vm::scenario_command("bench-admission", words),
        )
    };
    let outcome = Guests::new(&workspace::target()).run(&run, &mut std::io::stderr())?;
    if vm::report(&outcome)? == Verdict::Bad {
        return Ok(Verdict::Bad);
    }
    let path = outcome.directory.join("out/bench-admission.json");
    let text = std::fs::read_to_string(&path).doing("read", &path)?;
    let notes: Notes = serde_json::from_str(&text).map_err(|error| {
        Error::Environment(format!("{} is not a report: {error}.", path.display()))
    })?;
    let images: Vec<_> = notes.images.iter().map(Medians::of).collect();
    let met = images.iter().all(|image| image.ratio <= AGAIN_TARGET);
    let hook = median(&notes.hook_ms);
    if args.json {
        println!(
            "{:#}",
            serde_json::json!({ "bench": "admission", "images": images, "hook_ms": hook, "met": met })
        );
        return Ok(Verdict::from_passed(met));
    }
    println!("medians of {} rounds, ms of the guest's clock", args.rounds);
    for image in &images {
        println!("image of {} MB, {} files", image.megabytes, image.files);
        let to = |ms: f64| format!("{:+.1} %", (ms / image.without_hook - 1.0) * 100.0);
        println!("  podman run without a hook  {:8.0}", image.without_hook);
        println!(
            "  the image is new           {:8.0}  {}",
            image.first_time,
            to(image.first_time)
        );
        let verdict = if image.ratio <= AGAIN_TARGET {
            "met"
        } else {
            "MISSED"
        };
        println!(
            "  measured before            {:8.0}  {} <= {:+.0} % {verdict}",
            image.measured_before,
            to(image.measured_before),
            (AGAIN_TARGET - 1.0) * 100.0
        );
        println!(
            "  measuring, new             {:8.0}  {:.2} of openssl's {:.0}",
            image.measuring_first,
            image.measuring_first / image.openssl,
            image.openssl
        );
        println!("  measuring, before          {:8.0}", image.measuring_again);
        println!("  cimad's answer, before     {:8.0}", image.answering_again);
    }
    println!("the hook alone, refused at once {hook:.0} ms");
    Ok(Verdict::from_passed(met))
}
