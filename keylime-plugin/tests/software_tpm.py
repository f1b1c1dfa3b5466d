# SPDX-License-Identifier: Apache-2.0
"""A software TPM of one test, which makes quotes: `swtpm` on sockets in a directory, and `tpm2-tools`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from encoder import MeasurementList

PROGRAMS = (
    "swtpm",
    "tpm2_startup",
    "tpm2_createek",
    "tpm2_createak",
    "tpm2_pcrextend",
    "tpm2_quote",
    "tpm2_flushcontext",
    "tpm2_createprimary",
    "tpm2_readpublic",
    "tpm2_makecredential",
    "tpm2_startauthsession",
    "tpm2_policysecret",
    "tpm2_activatecredential",
)
#: Of cima's own key.
ATTRIBUTES = "restricted|sign|userwithauth|fixedtpm|fixedparent|sensitivedataorigin|noda"


def missing() -> list[str]:
    """What lacks of the programs."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Tpm:
    """A TPM with an attestation key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={directory}/tpm"}
        self._run("tpm2_startup", "-c")
        self._run("tpm2_createek", "-G", "rsa", "-u", "ek.pub", "-c", "ek.ctx")
        self._run(
            "tpm2_createak", "-C", "ek.ctx", "-G", "rsa", "-g", "sha256", "-s", "rsassa", "-u", "ak.pub", "-c", "ak.ctx"
        )

    def extend(self, listed: MeasurementList, pcr: int = 10) -> None:
        """Extends a PCR as a kernel does PCR 10."""
        self._run("tpm2_pcrextend", *(f"{pcr}:sha256={line.extends.hex()}" for line in listed.lines))

    def evidence(self, nonce: str, text: str, pcrs: str = "10") -> dict[str, str]:
        """As `cima evidence --nonce` writes it."""
        made = ("attest", "signature", "pcrs")
        self._run(
            *("tpm2_quote", "-c", "ak.ctx", "-l", f"sha256:{pcrs}", "-g", "sha256", "-q", nonce.encode().hex()),
            *("-m", made[0], "-s", made[1], "-o", made[2], "-F", "serialized"),
        )
        return {
            "quote": "r" + ":".join(self._base64(file) for file in made),
            "nonce": nonce,
            "hash_alg": "sha256",
            "tpm_ek": self._base64("ek.pub"),
            "tpm_ak": self._base64("ak.pub"),
            "ima_measurement_list": text,
        }

    def key(self, scheme: str = "ecc256:ecdsa-sha256:null", attributes: str = ATTRIBUTES) -> dict[str, str | None]:
        """As `cima evidence key --json` writes it, of a key that is made so. The TPM says its name."""
        self._run("tpm2_createprimary", "-C", "e", "-G", scheme, "-g", "sha256", "-a", attributes, "-c", "key.ctx")
        return self._said("key.ctx")

    def agents_key(self) -> dict[str, str | None]:
        """Likewise, of the key that quotes here are by: as Keylime's agent makes it."""
        return self._said("ak.ctx")

    def _said(self, context: str) -> dict[str, str | None]:
        self._run("tpm2_readpublic", "-c", context, "-o", "read.pub", "-n", "read.name")
        public = (self._directory / "read.pub").read_bytes()
        return {
            "handle": "0x8101c1a0",
            "name": (self._directory / "read.name").read_bytes().hex(),
            "tpm_ak": base64.b64encode(public).decode(),
            "ak_sha256": hashlib.sha256(public).hexdigest(),
            "tpm_ek": self._base64("ek.pub"),
            "ek_certificate": None,
        }

    def opened(self, ek: str, name: str, secret: bytes) -> bytes:
        """What the TPM opens of a credential that was made for this endorsement key and name, with the key that `key` made."""
        (self._directory / "secret").write_bytes(secret)
        (self._directory / "opened").unlink(missing_ok=True)
        self._run("tpm2_makecredential", "-T", "none", "-u", ek, "-n", name, "-s", "secret", "-o", "credential")
        self._run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            self._run("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            self._run(
                *("tpm2_activatecredential", "-c", "key.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "opened"),
                *("-P", "session:session.ctx"),
            )
        finally:
            self._run("tpm2_flushcontext", "session.ctx")
            self._run("tpm2_flushcontext", "-t")
        return (self._directory / "opened").read_bytes()

    def _base64(self, file: str) -> str:
        return base64.b64encode((self._directory / file).read_bytes()).decode()

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self._directory, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command[0]}: {done.stderr}"
        # Without a resource manager nobody else does.
        if command[0] in ("tpm2_createek", "tpm2_createak", "tpm2_createprimary", "tpm2_readpublic", "tpm2_quote"):
            self._run("tpm2_flushcontext", "-t")


@contextlib.contextmanager
def tpm(directory: Path) -> Iterator[Tpm]:
    """Starts one and ends it."""
    state = directory / "state"
    state.mkdir(parents=True)
    sockets = ("--server", f"type=unixio,path={directory}/tpm", "--ctrl", f"type=unixio,path={directory}/tpm.ctrl")
    command = ("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", *sockets, "--flags", "not-need-init")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not (directory / "tpm.ctrl").exists() and time.monotonic() < end:
            time.sleep(0.02)
        yield Tpm(directory)
    finally:
        process.terminate()
        process.wait(20)
