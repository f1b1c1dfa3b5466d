// SPDX-License-Identifier: Apache-2.0
//! What the benches execute in the guest, compiled from `tests/bench/` by the
//! system's C compiler into target/bench, to be staged at /cima/bench:
//!
//! ```text
//! load                 executes and counts; static
//! static/program       static, about 1 MiB
//! libraries/program    dynamic, beside the 40 libraries that it is linked to
//! libraries/lib-NN.so  about 60 KiB each
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use cima_guests::{Staged, run_tool};

use crate::error::{Doing as _, Error};
use crate::workspace;

const LIBRARIES: u32 = 40;
/// With the C library in it, the static program comes to a mebibyte.
const STATIC_BODY: u32 = 300_000;
/// Half of Debian's libraries are smaller than 60 to 120 KiB. Small ones are the
/// harder case: what is not hashing weighs more.
const LIBRARY_BODY: u32 = 46_000;

/// Compiles what is not there yet, and says where the guest gets it.
pub(crate) fn build() -> Result<Vec<Staged>, Error> {
    let out = workspace::target().join("bench");
    let steps = steps();
    let recipe = recipe(&steps)?;
    let stamp = out.join("recipe");
    if std::fs::read_to_string(&stamp).is_ok_and(|had| had == recipe) {
        return Ok(staged(&out, &steps));
    }
    eprintln!("Compiling the bench's programs");
    for step in &steps {
        let file = out.join(&step.output);
        let parent = file.parent().unwrap_or(&out);
        std::fs::create_dir_all(parent).doing("make the directory", parent)?;
        let mut gcc = Command::new("gcc");
        gcc.current_dir(&out)
            .args(["-O2", "-Wall", "-Wextra", "-Werror"])
            .arg(source(step.source))
            .args(&step.flags)
            .arg("-o")
            .arg(&step.output);
        run_tool("Compiling the bench's programs", &mut gcc)?;
    }
    std::fs::write(&stamp, recipe).doing("write", &stamp)?;
    Ok(staged(&out, &steps))
}

/// One call of the compiler.
struct Step {
    /// Below tests/bench.
    source: &'static str,
    flags: Vec<String>,
    /// Below target/bench.
    output: PathBuf,
}

fn steps() -> Vec<Step> {
    let step = |source, flags: &[&str], output: &str| Step {
        source,
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        output: output.into(),
    };
    let static_body = format!("-DBODY={STATIC_BODY}");
    let library_body = format!("-DBODY={LIBRARY_BODY}");
    let mut steps = vec![
        step("load.c", &["-static"], "load"),
        step("program.c", &["-static", &static_body], "static/program"),
    ];
    // All are needed, and the program finds each beside itself: a copy of the
    // directory is a program of its own.
    let mut linked = vec![
        library_body.clone(),
        "-Wl,--no-as-needed".to_owned(),
        "-Wl,-rpath,$ORIGIN".to_owned(),
    ];
    for number in 0..LIBRARIES {
        let name = format!("lib-{number:02}.so");
        let output = format!("libraries/{name}");
        let function = format!("-DNAME=function_{number:02}");
        let soname = format!("-Wl,-soname,{name}");
        let flags = ["-shared", "-fPIC", &library_body, &function, &soname];
        steps.push(step("library.c", &flags, &output));
        linked.push(output);
    }
    steps.push(Step {
        source: "program.c",
        flags: linked,
        output: "libraries/program".into(),
    });
    steps
}

fn source(name: &str) -> PathBuf {
    workspace::root().join("tests/bench").join(name)
}

/// All that decides what is compiled: another recipe, another build.
fn recipe(steps: &[Step]) -> Result<String, Error> {
    let mut recipe = String::new();
    for step in steps {
        recipe.push_str(&format!("{} {:?}\n", step.output.display(), step.flags));
    }
    for name in ["load.c", "program.c", "library.c"] {
        let path = source(name);
        recipe.push_str(&std::fs::read_to_string(&path).doing("read", &path)?);
    }
    Ok(recipe)
}

fn staged(out: &Path, steps: &[Step]) -> Vec<Staged> {
    let place = |step: &Step| {
        Staged::new(
            out.join(&step.output),
            Path::new("bench").join(&step.output),
        )
    };
    steps.iter().map(place).collect()
}
