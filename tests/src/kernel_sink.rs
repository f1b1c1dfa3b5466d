// SPDX-License-Identifier: Apache-2.0
//! What the sinks in the kernel's list want of a host: rules, and for the sink `kernel` the module and the object that has the kernel list.

use std::fs;

use crate::agent::eventually;
use crate::process::{self, Ran};

/// Of both.
pub(crate) const RULES: &str = "measure func=CRITICAL_DATA label=cima\nmeasure func=FILE_CHECK mask=MAY_READ fsname=devtmpfs fowner=60990\n";
const LISTER: &str = "/usr/lib/cima/cima-list.o";
const CORE_SIZE: &str = "/sys/module/cima/coresize";

/// Installs the object and loads the module; how many bytes of memory it takes.
#[track_caller]
pub(crate) fn load() -> u64 {
    install();
    insmod().succeeded();
    let size = fs::read_to_string(CORE_SIZE).expect("a module has a size");
    size.trim().parse().expect("it is a number")
}

/// Installs the object.
pub(crate) fn install() {
    fs::create_dir_all("/usr/lib/cima").expect("the root can be written");
    fs::copy("/cima/lib/cima-list.o", LISTER).expect("it is in the stage");
}

/// Loads the module.
pub(crate) fn insmod() -> Ran {
    let series =
        std::env::var("CIMA_GUEST_KERNEL").expect("the runner says which kernel it booted");
    process::run(&["insmod", &format!("/cima/lib/cima-{series}.ko")])
}

/// Takes the module out, once nobody's programs call it.
#[track_caller]
pub(crate) fn unload() {
    eventually("nobody holds the module", || {
        (process::run(&["rmmod", "cima"]).code() == Some(0)).then_some(())
    });
}
