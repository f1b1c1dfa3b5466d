// SPDX-License-Identifier: Apache-2.0
//! Sink `kernel`: the module's device takes what the agent says, and lists it as it is. What was executed, the kernel side
//! has listed before (`kmod-bridge`); the device takes it only if that failed.

use std::{
    fs::File,
    io::{self, Write as _},
};

use super::{KERNEL_RULE, SinkError, host::Submit};
use crate::measure::{Anchorage, HostForm};

/// The module's, `kmod-bridge/uapi/cima.h`.
const DEVICE: &str = "/dev/cima";
/// `CIMA_ENTRY_VERSION`.
const VERSION: u32 = 1;

/// The device, open.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// # Errors
    /// There is none, or it may not be opened.
    pub(super) fn open() -> Result<Self, SinkError> {
        match File::options().write(true).open(DEVICE) {
            Ok(device) => Ok(Self(device)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SinkError::NoModule),
            Err(source) => Err(SinkError::Module { source }),
        }
    }
}

impl Submit for Device {
    fn anchorage(&self) -> Anchorage {
        Anchorage::Kernel
    }

    fn form(&self) -> HostForm {
        HostForm::Buffer
    }

    fn submit(&mut self, name: &str, payload: &[u8]) -> Result<bool, SinkError> {
        // Longer ones are refused by the module.
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let record = [
            &VERSION.to_ne_bytes()[..],
            &length(name.as_bytes()),
            &length(payload),
            &[0; 4],
            name.as_bytes(),
            payload,
        ]
        .concat();
        match self.0.write_all(&record) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            // Not listed, and what is lacking is said.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(SinkError::Module { source }),
        }
    }

    fn lacks(&self) -> String {
        format!(
            "an IMA rule: `{KERNEL_RULE}`, in /etc/ima/ima-policy, which systemd loads at boot; or the boot parameter ima_policy=critical_data; or, once in a boot and if no other policy was loaded, write it to /sys/kernel/security/ima/policy"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::DEVICE;

    #[test]
    fn the_shipped_unit_lets_cimad_open_the_device() {
        let unit = include_str!("../../etc/cimad.service");
        let allows = format!("DeviceAllow={DEVICE} rw");
        assert!(unit.lines().any(|line| line == allows));
    }
}
