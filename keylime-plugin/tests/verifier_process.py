# SPDX-License-Identifier: Apache-2.0
"""A real `keylime_verifier` on loopback: TLS with certificates of its own making, SQLite, all in one directory."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 90
# Keys without a default in Keylime 7.14.3. Others are Keylime's own defaults, as its templates have them.
CONFIGURATION = """[verifier]
version = 2.6
uuid = default
ip = 127.0.0.1
port = {port}
registrar_ip = 127.0.0.1
registrar_port = {registrar_port}
enable_agent_mtls = True
tls_dir = generate
server_key = default
server_key_password =
server_cert = default
trusted_client_ca = default
client_key = default
client_key_password =
client_cert = default
trusted_server_ca = default
database_url = sqlite:///{directory}/verifier.sqlite
auto_migrate_db = True
num_workers = 1
max_workers = 1
exponential_backoff = True
retry_interval = 2
max_retries = 5
quote_interval = 2
max_upload_size = {max_upload_size}
request_timeout = 60
measured_boot_policy_name = accept-all
measured_boot_imports = []
measured_boot_evaluate = once
severity_labels = ["info", "notice", "warning", "error", "critical", "alert", "emergency"]
severity_policy = [{{"event_id": ".*", "severity_label": "emergency"}}]
ignore_tomtou_errors = False
require_allow_list_signatures = False
durable_attestation_import =
mode = pull

[revocations]
enabled_revocation_notifications = []
"""
CA_CONFIGURATION = """[ca]
version = 2.6
password = default
cert_country = US
cert_ca_name = Keylime Certificate Authority
cert_state = MA
cert_locality = Lexington
cert_organization = MITLL
cert_org_unit = 53
cert_ca_lifetime = 3650
cert_lifetime = 365
cert_bits = 2048
cert_crl_dist = http://localhost:38080/crl
"""
LOGGING = """[logging]
version = 2.6
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[formatter_plain]
format = %(asctime)s - %(name)s - %(levelname)s - %(message)s
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
level = INFO
formatter = plain
args = (sys.stderr,)
"""


@dataclass
class Running:
    """A verifier that answers."""

    url: str
    log: Path
    certificates: Path

    @property
    def arguments(self) -> list[str]:
        """How an administrator reaches it."""
        directory = self.certificates
        return [
            *("--verifier", self.url, "--ca", str(directory / "cacert.crt")),
            *("--cert", str(directory / "client-cert.crt"), "--key", str(directory / "client-private.pem")),
        ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def verifier(directory: Path, max_upload_size: int = 104857600) -> Iterator[Running]:
    """Starts one, waits until it answers, and ends it and its worker."""
    port = free_port()
    environment = {**os.environ, "KEYLIME_DIR": str(directory)}
    for component, text in (("verifier", CONFIGURATION), ("ca", CA_CONFIGURATION), ("logging", LOGGING)):
        path = directory / f"{component}.conf"
        if component == "verifier":
            text = text.format(
                port=port, registrar_port=free_port(), directory=directory, max_upload_size=max_upload_size
            )
        path.write_text(text)
        environment[f"KEYLIME_{component.upper()}_CONFIG"] = str(path)
    program = str(Path(sys.executable).with_name("keylime_verifier"))
    log = directory / "verifier.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program], env=environment, cwd=directory, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(port, process, log)
        yield Running(f"https://127.0.0.1:{port}", log, directory / "cv_ca")
    finally:
        # A session of its own: nobody else is in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    context = ssl._create_unverified_context()
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as raw, context.wrap_socket(raw):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"keylime_verifier does not answer:\n{log.read_text(errors='replace')}")
