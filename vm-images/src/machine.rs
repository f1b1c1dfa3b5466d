// SPDX-License-Identifier: Apache-2.0
//! What a run asks of its machine, and QEMU's command line that gives it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{qemu_path, shell_quote};
use crate::error::{Doing as _, Error};
use crate::{Kernel, Result, Series};

/// Security modules of the guest by default: Debian's own, and `bpf`, without
/// which LSM programs attach and never fire.
pub const DEFAULT_LSM: &str = "landlock,lockdown,yama,integrity,apparmor,bpf";

const GUEST_INIT: &str = include_str!("../recipe/guest-init.sh");

/// One run of a command in a guest of its own.
#[derive(Debug, Clone)]
pub struct Run {
    /// The kernel to boot.
    pub series: Series,
    /// Names the run in messages, and its directory under `target/vm/runs`. Two
    /// runs at a time of one series need two labels.
    pub label: String,
    /// Program and arguments, as the guest sees them.
    pub command: Vec<String>,
    /// Environment of the command, besides PATH, HOME and LANG.
    pub environment: Vec<(String, String)>,
    /// A host directory whose content lies at `/cima` in the guest.
    pub stage: Option<PathBuf>,
    /// More host files below `/cima`.
    pub staged: Vec<Staged>,
    /// The TPM, on /dev/tpm0 and /dev/tpmrm0.
    pub tpm: Tpm,
    /// The kernel parameter `lsm=`.
    pub lsm: String,
    /// More kernel parameters.
    pub parameters: Vec<String>,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors; always one with [`Clock::Instructions`].
    pub processors: u32,
    /// What the guest's time is counted by.
    pub clock: Clock,
    /// How long the machine may run on the host's clock, boot included.
    pub time_limit: Duration,
    /// Whether the run may pass though the kernel warned (`WARN_ON`).
    pub warnings_allowed: bool,
    /// Texts of warnings that the command provokes: a line with one of them is no trouble.
    pub expected_warnings: Vec<String>,
    /// How often the guest may reset itself: it boots again with the disks as they were
    /// left, a TPM that was reset with it, and the same command. With 0 a reset ends the run.
    pub resets: u32,
}

impl Run {
    /// A run with every setting at its default: two processors, 2 GiB, a TPM
    /// with all banks, three minutes.
    pub fn new<S: Into<String>>(
        series: Series,
        label: impl Into<String>,
        command: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            series,
            label: label.into(),
            command: command.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            stage: None,
            staged: Vec::new(),
            tpm: Tpm::default(),
            lsm: DEFAULT_LSM.to_owned(),
            parameters: Vec::new(),
            memory: 2048,
            processors: 2,
            clock: Clock::Host,
            time_limit: Duration::from_secs(180),
            warnings_allowed: false,
            expected_warnings: Vec::new(),
            resets: 0,
        }
    }
}

impl Run {
    /// Whether a warning of the kernel fails the run.
    pub(crate) fn minds_warning(&self, line: &str) -> bool {
        let expected = |text: &String| line.contains(text.as_str());
        !self.warnings_allowed && !self.expected_warnings.iter().any(expected)
    }
}

/// A host file that the guest gets.
#[derive(Debug, Clone)]
pub struct Staged {
    host: PathBuf,
    guest: PathBuf,
}

impl Staged {
    /// The file `host` of this machine, at `/cima/GUEST` in the guest.
    pub fn new(host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        Self {
            host: host.into(),
            guest: guest.into(),
        }
    }
}

/// The TPM of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tpm {
    /// None at all.
    Absent,
    /// TPM 2.0 with these PCR banks active.
    Banks(Vec<String>),
}

impl Default for Tpm {
    /// All banks that swtpm has.
    fn default() -> Self {
        Self::Banks(
            ["sha1", "sha256", "sha384", "sha512"]
                .map(str::to_owned)
                .to_vec(),
        )
    }
}

/// What the guest's clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Time, as the host sees it pass.
    Host,
    /// Instructions, one for 2 ns: a measurement is the same whatever else the
    /// host does. One processor, and a slower boot.
    Instructions,
}

/// Where one run's machine finds and leaves things on the host.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) root_image: &'a Path,
    /// Whether what the guest writes to its root stays there.
    pub(crate) persist: bool,
    pub(crate) stage_image: &'a Path,
    pub(crate) tpm_socket: Option<&'a Path>,
    /// Holds `console.log`, `scenario.log`, `verdict` and `out/`.
    pub(crate) directory: &'a Path,
    /// Whether the command gets this terminal instead of `scenario.log`.
    pub(crate) interactive: bool,
}

/// Gives `qemu` the arguments of this machine.
pub(crate) fn configure(qemu: &mut Command, run: &Run, kernel: &Kernel, places: &Places<'_>) {
    let file = |name: &str| qemu_path(&places.directory.join(name));
    let chardev_file = |id: &str, name: &str| format!("file,id={id},path={}", file(name));

    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args((run.resets == 0).then_some("-no-reboot"))
        .args(["-machine", "q35", "-cpu", "max"])
        .args(["-m", &run.memory.to_string()]);
    match run.clock {
        // One thread for all processors, on purpose: with a thread for each, QEMU
        // before 8.1 can translate code that another processor is patching, and
        // keep it. The kernel patches itself (static keys, BPF trampolines): on
        // 7.2 a loop of that ended in "Oops: int3" after 1 and after 10 s. One
        // thread survived it for 100 s, and costs `podman run` about a fifth.
        Clock::Host => qemu
            .args(["-accel", "tcg,thread=single"])
            .args(["-smp", &run.processors.to_string()]),
        Clock::Instructions => {
            qemu.args(["-accel", "tcg", "-icount", "shift=1,sleep=off", "-smp", "1"])
        }
    };
    boot(qemu, run, kernel, places.persist);

    qemu.args(["-chardev", &chardev_file("console", "console.log")])
        .args(["-serial", "chardev:console"])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", &chardev_file("verdict", "verdict")])
        .args([
            "-device",
            "virtserialport,chardev=verdict,name=cima.verdict",
        ]);
    if places.interactive {
        qemu.args(["-chardev", "stdio,id=shell,signal=off"])
            .args(["-device", "virtconsole,chardev=shell"]);
    } else {
        qemu.args(["-chardev", &chardev_file("output", "scenario.log")])
            .args(["-device", "virtserialport,chardev=output,name=cima.output"]);
    }

    let root = if places.persist {
        "snapshot=off"
    } else {
        "snapshot=on"
    };
    disk(qemu, "root", places.root_image, root);
    disk(qemu, "stage", places.stage_image, "readonly=on");
    disk(qemu, "modules", &kernel.modules_disk(), "readonly=on");
    qemu.arg("-fsdev")
        .arg(format!(
            "local,id=out,security_model=none,path={}",
            file("out")
        ))
        .args(["-device", "virtio-9p-pci,fsdev=out,mount_tag=out"]);

    if let Some(socket) = places.tpm_socket {
        qemu.arg("-chardev")
            .arg(format!("socket,id=tpm,path={}", qemu_path(socket)))
            .args(["-tpmdev", "emulator,id=tpm,chardev=tpm"])
            .args(["-device", "tpm-tis,tpmdev=tpm"]);
    }
}

/// Where the initramfs lies in the guest's memory.
const INITRAMFS_ADDRESS: u64 = 128 << 20;

/// Kernel, parameters and initramfs. QEMU's own `-initrd` puts the initramfs over
/// the ACPI tables when an ELF kernel meets a machine with a TPM, whose event log
/// QEMU 7.2 forgets to make room for. So it is loaded at an address of ours,
/// which the kernel is told of and, lest it hand that memory out, told to avoid.
fn boot(qemu: &mut Command, run: &Run, kernel: &Kernel, persist: bool) {
    let size = kernel.initramfs_size;
    let room = size.next_multiple_of(1 << 20);
    let parameters = format!(
        "{} initrdmem={INITRAMFS_ADDRESS:#x},{size} memmap={room:#x}${INITRAMFS_ADDRESS:#x}",
        kernel_parameters(run, persist)
    );
    qemu.arg("-kernel")
        .arg(kernel.image())
        .args(["-append", &parameters]);
    qemu.arg("-device").arg(format!(
        "loader,force-raw=on,addr={INITRAMFS_ADDRESS:#x},file={}",
        qemu_path(&kernel.initramfs())
    ));
}

/// A disk that the guest knows by its serial number.
fn disk(qemu: &mut Command, serial: &str, image: &Path, how: &str) {
    qemu.arg("-drive")
        .arg(format!(
            "if=none,id={serial},format=raw,cache=unsafe,{how},file={}",
            qemu_path(image)
        ))
        .args([
            "-device",
            &format!("virtio-blk-pci,drive={serial},serial={serial}"),
        ]);
}

fn kernel_parameters(run: &Run, persist: bool) -> String {
    let mut parameters = vec![
        "console=ttyS0".to_owned(),
        "panic=-1".to_owned(),
        "ima_hash=sha256".to_owned(),
        format!("lsm={}", run.lsm),
    ];
    parameters.extend(persist.then(|| "cima.persist".to_owned()));
    parameters.extend(run.parameters.iter().cloned());
    parameters.join(" ")
}

/// Lays out what the guest sees at `/cima`.
pub(crate) fn lay_out_stage(run: &Run, stage: &Path) -> Result<()> {
    if let Some(tree) = &run.stage {
        copy_tree(tree, stage)?;
    }
    for Staged { host, guest } in &run.staged {
        let inside = guest
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || guest.as_os_str().is_empty() {
            return Err(Error::Stage {
                path: host.clone(),
                why: format!("/cima/{} is not a place below /cima", guest.display()),
            });
        }
        copy_file(host, &stage.join(guest))?;
    }
    write_program(&stage.join("guest/init"), GUEST_INIT)?;
    write_program(&stage.join("guest/command"), &command_script(run))
}

fn command_script(run: &Run) -> String {
    let words = |words: &mut dyn Iterator<Item = &String>| {
        words
            .map(|word| shell_quote(word))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let exports: String = run
        .environment
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", shell_quote(value)))
        .collect();
    format!(
        "#!/bin/sh\n{exports}exec {}\n",
        words(&mut run.command.iter())
    )
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    make_parent(path)?;
    std::fs::write(path, text).doing("write", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .doing("make executable", path)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(from).follow_links(true) {
        let entry = entry.map_err(|error| Error::Stage {
            path: from.to_owned(),
            why: error.to_string(),
        })?;
        if let (true, Ok(relative)) = (entry.file_type().is_file(), entry.path().strip_prefix(from))
        {
            copy_file(entry.path(), &to.join(relative))?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    std::fs::copy(from, to)
        .map(drop)
        .map_err(|error| Error::Stage {
            path: from.to_owned(),
            why: error.to_string(),
        })
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).doing("make the directory", parent)
}

#[cfg(test)]
mod tests {
    use super::{Run, Staged, command_script, lay_out_stage};
    use crate::Series;

    #[test]
    fn the_guest_gets_the_words_as_they_are() {
        let run = Run {
            environment: vec![("NAME".to_owned(), "it's $HOME".to_owned())],
            ..Run::new(Series::V6_12, "test", ["echo", "a b", "'", "$(true)"])
        };
        assert_eq!(
            command_script(&run),
            "#!/bin/sh\nexport NAME='it'\\''s $HOME'\nexec 'echo' 'a b' ''\\''' '$(true)'\n"
        );
    }

    #[test]
    fn nothing_is_staged_outside_the_stage() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        for place in ["../x", "/etc/passwd", "", "a/../../b"] {
            let run = Run {
                staged: vec![Staged::new("/dev/null", place)],
                ..Run::new(Series::V6_1, "test", ["true"])
            };
            assert!(lay_out_stage(&run, scratch.path()).is_err(), "{place}");
        }
    }
}
