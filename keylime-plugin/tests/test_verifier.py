# SPDX-License-Identifier: Apache-2.0
"""A running Keylime verifier takes policies and judges evidence; and what is said when there is none, or another."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import socket
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import verifier_process
from cima_keylime.cli import main
from cima_keylime.verifier import Tls, Verifier
from conftest import DATABASE, HOST, WEB, Write, good_node
from encoder import MeasurementList
from software_tpm import Tpm
from verifier_process import Running

Captured = pytest.CaptureFixture[str]


def client(verifier: Running) -> Verifier:
    ca, certificate, key = (
        str(verifier.certificates / name) for name in ("cacert.crt", "client-cert.crt", "client-private.pem")
    )
    return Verifier(verifier.url, Tls(ca, certificate, key))


# --- push


def test_a_policy_is_stored_as_it_is(verifier: Running, policy: str, capsys: Captured) -> None:
    assert main(["push", *verifier.arguments, "--name", "stored", policy]) == 0
    assert capsys.readouterr().out.startswith(f"stored: stored at {verifier.url}, 1 images, ")
    # Names of images and all: Keylime keeps what it does not read.
    assert client(verifier).stored("stored") == Path(policy).read_text()


def test_a_name_is_not_taken_from_another_policy(verifier: Running, policy: str, capsys: Captured) -> None:
    push = ["push", *verifier.arguments, "--name", "taken", policy]
    assert (main(push), main(push)) == (0, 2)
    assert "409 Runtime policy with name taken already exists; --update replaces it" in capsys.readouterr().err


def test_an_update_replaces_what_is_there(verifier: Running, policy: str, database: str, capsys: Captured) -> None:
    push = ["push", *verifier.arguments, "--name", "updated", policy]
    assert main([*push, "--update"]) == 2
    assert "404 Runtime policy with name updated does not already exist" in capsys.readouterr().err
    assert main(push) == 0
    assert main(["policy", "add", policy, database, "-o", policy]) == 0
    assert main([*push, "--update", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 2
    assert DATABASE in (client(verifier).stored("updated") or "")


def test_who_is_no_administrator_is_refused(verifier: Running, policy: str, capsys: Captured) -> None:
    anonymous = [*verifier.arguments[:4], "--name", "anonymous", policy]
    assert main(["push", *anonymous]) == 2
    assert "403 Forbidden; is --cert one of an administrator's?" in capsys.readouterr().err
    assert client(verifier).stored("anonymous") is None


def test_a_verifier_of_another_ca_gets_nothing(verifier: Running, policy: str, capsys: Captured) -> None:
    assert main(["push", "--verifier", verifier.url, "--name", "x", policy]) == 2
    assert "its certificate is refused: self-signed certificate in certificate chain" in capsys.readouterr().err


def test_a_certificate_of_another_ca_is_refused(
    verifier: Running, policy: str, capsys: Captured, tmp_path: Path
) -> None:
    certificate, key = _self_signed(tmp_path)
    arguments = [*verifier.arguments[:4], "--cert", certificate, "--key", key, "--name", "x"]
    assert main(["push", *arguments, policy]) == 2
    assert "is the certificate one of its CA's?" in capsys.readouterr().err


def test_a_certificate_for_another_host_is_refused(verifier: Running, policy: str, capsys: Captured) -> None:
    port = verifier.url.rpartition(":")[2]
    arguments = ["--verifier", f"https://127.0.0.2:{port}", *verifier.arguments[2:], "--name", "x", policy]
    with _forwarded("127.0.0.2", int(port)):
        assert main(["push", *arguments]) == 2
        assert "IP address mismatch" in capsys.readouterr().err
        assert main(["push", *arguments, "--no-check-hostname"]) == 0


def test_a_verifier_that_is_away_is_named(policy: str, capsys: Captured) -> None:
    url = f"https://127.0.0.1:{verifier_process.free_port()}"
    assert main(["push", "--verifier", url, "--name", "x", policy]) == 2
    assert f"error: {url}: no verifier answers there: " in capsys.readouterr().err
    assert main(["push", "--verifier", "https://no.invalid", "--name", "x", policy]) == 2
    assert "error: https://no.invalid: no verifier answers there: " in capsys.readouterr().err


def test_a_policy_that_is_too_large_is_told_from_a_verifier_that_is_away(
    tmp_path: Path, policy: str, write: Write, capsys: Captured
) -> None:
    large = json.loads(Path(policy).read_text())
    large["digests"].update({f"/usr/bin/tool{number}": ["0" * 64] for number in range(30000)})
    directory = tmp_path / "verifier"
    directory.mkdir()
    with verifier_process.verifier(directory, max_upload_size=1 << 20) as verifier:
        assert main(["push", *verifier.arguments, "--name", "large", write("large.json", large)]) == 2
        assert "max_upload_size" in capsys.readouterr().err
        assert main(["push", *verifier.arguments, "--name", "small", policy]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--verifier", "http://verifier:8881"], "not https://HOST:PORT"),
        (["--verifier", "https://me:secret@verifier:8881"], "not https://HOST:PORT"),
        (["--verifier", "https://verifier:x"], "--verifier https://verifier:x: "),
        (["--verifier", "https://[::1"], "--verifier https://[::1: "),
        (["--verifier", "https://a..b"], "--verifier https://a..b: "),
        (["--verifier", "https://a b"], "not https://HOST:PORT"),
        (["--verifier", "https://verifier#x"], "not https://HOST:PORT"),
        (["--verifier", "https://verifier", "--ca", ""], '--ca "": no file'),
        (["--verifier", "https://localhost:1", "--name", ".."], '--name "..": Keylime takes letters'),
        (["--verifier", "https://verifier", "--ca", "/nowhere"], "--ca /nowhere: No such file or directory"),
        (["--verifier", "https://verifier", "--ca", "CERTIFICATE"], "not PEM of a certificate"),
        (["--verifier", "https://verifier", "--cert", "/nowhere"], "--cert /nowhere: No such file or directory"),
        (["--verifier", "https://verifier", "--key", "/nowhere"], "--key needs --cert"),
        (["--verifier", "https://localhost:1", "--name", "a/b"], '--name "a/b": Keylime takes letters'),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    arguments: list[str], said: str, policy: str, write: Write, capsys: Captured
) -> None:
    arguments = [write("ca", "no PEM") if one == "CERTIFICATE" else one for one in arguments]
    assert main(["push", policy, *(["--name", "x"] if "--name" not in arguments else []), *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "1e999", "x"])
def test_a_time_that_is_none_is_a_usage_error(seconds: str, policy: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        main(["push", "--verifier", "https://verifier", "--name", "x", policy, "--timeout", seconds])
    assert left.value.code == 2
    assert f"--timeout: {seconds}: not seconds" in capsys.readouterr().err


def test_a_policy_that_allows_violations_is_not_sent(verifier: Running, write: Write, policy: str) -> None:
    found = json.loads(Path(policy).read_text())
    found["digests"][f"cima-violation:writer:{WEB}:%2Fx"] = ["0" * 64]
    assert main(["push", *verifier.arguments, "--name", "violating", write("violating.json", found)]) == 2
    assert client(verifier).stored("violating") is None


# --- other servers


ANSWERS: dict[str, tuple[int, str, str]] = {
    "older": (200, '{"results": {"supported_versions": ["1.0", "2.0"]}}', "speaks the API versions 1.0, 2.0, and only"),
    "newer": (200, '{"results": {"supported_versions": ["4.0"]}}', "speaks the API versions 4.0, and only"),
    "another": (404, "<html>", "no Keylime verifier: /version answers 404"),
    "none": (200, "[]", "no Keylime verifier: /version answers 200"),
    # As it is, and not as HTTP has it.
    "no HTTP": (0, "\x1b[2J\r\n\r\n", r"no verifier answers there: \x1b[2J"),
    "failing": (410, "{}", "POST /allowlists/x: 410 Gone"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_verifier_of_a_known_version_is_named(
    kind: str, verifier: Running, policy: str, capsys: Captured
) -> None:
    code, text, said = ANSWERS[kind]
    with _server(verifier, code, text) as url:
        assert main(["push", "--verifier", url, *verifier.arguments[2:], "--name", "x", policy]) == 2
    assert said in capsys.readouterr().err


# --- verify


def verify(verifier: Running, policy: str, evidence: str, *more: str) -> list[str]:
    return ["verify", *verifier.arguments[:4], "--policy", policy, evidence, *more]


@pytest.mark.parametrize("sink", ["kernel", "ima-file"])
def test_evidence_of_a_good_node_is_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured, sink: str
) -> None:
    node = good_node(sink)
    tpm.extend(node.list)
    evidence = tpm.evidence("nonce1", node.list.text)
    key = hashlib.sha256(b64decode(evidence["tpm_ak"])).hexdigest()
    path = write("evidence.json", evidence)
    assert main(verify(verifier, policy, path, "--nonce", "nonce1", "--ak-sha256", key)) == 0
    assert capsys.readouterr() == ("valid\n", "")
    assert main(verify(verifier, policy, path, "--nonce", "nonce2")) == 1
    assert "the evidence was made for another nonce" in capsys.readouterr().out
    assert main(verify(verifier, policy, path, "--ak-sha256", "0" * 64, "--json")) == 1
    assert json.loads(capsys.readouterr().out) == {
        "valid": False,
        "findings": [{"text": f"the quote is by another key: sha256 {key}", "event": "cima.key", "count": 1}],
    }
    # The nonce is the node's word until the quote is looked at: Keylime does, and takes it as base64, too.
    evidence["nonce"] = "nonce2"
    assert main(verify(verifier, policy, write("evidence.json", evidence), "--nonce", "nonce2")) == 1
    assert "the quote was made for another nonce than the evidence says" in capsys.readouterr().out


def test_a_quote_that_another_key_signed_is_refused(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    tpm.extend(node.list)
    evidence = {**tpm.evidence("n", node.list.text), "tpm_ak": tpm.key()["tpm_ak"]}
    assert main(verify(verifier, policy, write("evidence.json", evidence), "--nonce", "n")) == 1
    assert capsys.readouterr().out.startswith("the quote is not that of this key with this nonce: ")


def test_evidence_of_a_bad_node_is_explained(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    node.execute(WEB, b"/tmp/miner", b"miner")
    node.execute(WEB, b"/usr/bin/nginx", b"nginx 2")
    node.admit(DATABASE)
    node.execute("unregistered", b"/bin/sh", b"sh")
    node.say(f"cima-violation:mprotect:{WEB}:", b"v1;mprotect;file")
    tpm.extend(node.list)
    path = write("evidence.json", tpm.evidence("n", node.list.text))
    assert main(verify(verifier, policy, path, "--nonce", "n", "--json")) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    texts = [finding["text"] for finding in findings]
    assert texts[0].startswith(f"image localhost/web:1 ({WEB}) executed /tmp/miner (sha256:")
    assert texts[0].endswith("), which is not in its reference")
    assert texts[1].endswith("), with another content than its reference has")
    assert texts[2] == f"image {DATABASE} was started, but is not in the policy"
    assert texts[3].startswith("an unregistered container executed /bin/sh (sha256:")
    assert texts[4].startswith(f"violation mprotect in image localhost/web:1 ({WEB}): a mapping of a file was made")
    assert len(texts) == 5


def test_a_list_that_is_not_the_tpms_is_not_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    bad = good_node("kernel")
    bad.execute(WEB, b"/tmp/miner", b"miner")
    tpm.extend(bad.list)
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", node.list.text)), "--nonce", "n")) == 1
    assert "the list does not give the value of PCR 10" in capsys.readouterr().out


def test_a_list_with_a_line_that_nobody_reads_is_not_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    node.execute(WEB, b"/tmp/miner", b"miner")
    tpm.extend(node.list)
    text = "10 nonsense\n" + node.list.text
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", text)), "--nonce", "n")) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a line of the list is no entry that Keylime can read: ")
    assert said[1].startswith(f"image localhost/web:1 ({WEB}) executed /tmp/miner (sha256:")


def test_a_quote_without_pcr_10_is_valid_to_keylime_and_not_here(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    # check_pcrs looks at the list only if PCR 10 is in the quote.
    forged = "10 " + "0" * 40 + " nonsense\n"
    evidence = tpm.evidence("n", forged, pcrs="0")
    answer = client(verifier).verify({**evidence, "runtime_policy": Path(policy).read_text()})
    assert answer["valid"] is True
    assert main(verify(verifier, policy, write("e", evidence), "--nonce", "n")) == 1
    assert "the quote is not of PCR 10" in capsys.readouterr().out


def test_values_of_other_pcrs_are_not_taken_for_that_of_pcr_10(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    # PCR 16 may be reset by anybody. The quote is of both, and the node says of the values that they are those of PCR 9 and 10:
    # checkquote compares their digest, and not of which PCRs they are.
    good, bad = good_node("kernel"), good_node("kernel")
    bad.execute(WEB, b"/tmp/miner", b"miner")
    tpm.extend(bad.list)
    tpm.extend(good.list, 16)
    evidence = tpm.evidence("n", good.list.text, pcrs="10,16")
    *before, values = evidence["quote"].split(":")
    forged = bytearray(b64decode(values))
    assert forged[7:10] == b"\x00\x04\x01"
    forged[7:10] = b"\x00\x06\x00"
    evidence["quote"] = ":".join([*before, b64encode(forged).decode()])
    answer = client(verifier).verify({**evidence, "runtime_policy": Path(policy).read_text()})
    assert answer["valid"] is True
    assert main(verify(verifier, policy, write("e", evidence), "--nonce", "n")) == 1
    assert "the quote is of other PCRs than 10, too" in capsys.readouterr().out


@pytest.mark.parametrize("extended", [0, 9])
def test_a_list_that_goes_on_behind_the_quote_is_not_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured, extended: int
) -> None:
    # Keylime looks for the value anywhere in the list, and finds that of a PCR that nothing has extended before its first line.
    node = good_node("kernel")
    text = node.list.text
    del node.list.lines[extended:]
    if extended:
        tpm.extend(node.list)
    answer = client(verifier).verify({**tpm.evidence("n", text), "runtime_policy": Path(policy).read_text()})
    assert answer["valid"] is True
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", text)), "--nonce", "n")) == 1
    assert "the list does not give the value of PCR 10" in capsys.readouterr().out


def test_what_a_node_says_of_its_boot_is_not_taken_into_the_policy(
    verifier: Running, policy: str, write: Write, tpm: Tpm, capsys: Captured
) -> None:
    # Keylime adds the boot_aggregate of an event log that the quote does not cover to those that the policy allows.
    evidence = {**tpm.evidence("n", good_node("kernel").list.text), "mb_log": "YWJj"}
    assert main(verify(verifier, policy, write("e", evidence), "--nonce", "n")) == 2
    assert 'the key "mb_log" is not one of evidence' in capsys.readouterr().err


@pytest.mark.parametrize("path", [b"/usr/bin/evil", b"/x" * 130])
def test_an_entry_of_the_hosts_that_keylime_is_kept_from_judging_is_found(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured, path: bytes
) -> None:
    # It takes an entry whose template hash is written as ones for a violation of IMA's, and replays its data as they are.
    node = good_node("kernel")
    line = node.list.file(path.decode(), b"evil")
    tpm.extend(node.list)
    text = node.list.text.replace(line.text[3:43], "ff" * 20)
    answer = client(verifier).verify({**tpm.evidence("n", text), "runtime_policy": Path(policy).read_text()})
    assert answer["valid"] is True
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", text)), "--nonce", "n")) == 1
    assert "does not have its own template hash" in capsys.readouterr().out


def test_a_file_of_cimas_that_is_shown_as_another_of_the_hosts_is_found(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    # The template's name is in no hash. The same bytes are an entry of the template `ima`, whose name is the last 255 of them
    # before the NUL, if whatever is before counts as a digest: then it has a NUL in front.
    node = good_node("ima-file")
    node.execute(WEB, b"/tmp/" + b"x" * 240 + b"/miner", b"miner")
    tpm.extend(node.list)
    line = node.list.lines[-1]
    data = line.record[4 + 20 + 4 + len("ima-ng") + 4 :]
    forged = f"10 {'ff' * 20} ima x:{data[:-256].hex()} {data[-256:-1].decode()}"
    text = node.list.text.replace(line.text, forged)
    assert "\0cima-exec:" in text
    answer = client(verifier).verify({**tpm.evidence("n", text), "runtime_policy": Path(policy).read_text()})
    assert answer["valid"] is True
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", text)), "--nonce", "n")) == 2
    assert f"line {len(node.list.lines)} is no entry of a list" in capsys.readouterr().err


def test_a_node_whose_agent_has_not_started_is_not_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    listed = MeasurementList()
    listed.file("boot_aggregate", b"aggregate")
    listed.file("/usr/bin/bash", b"bash of the host")
    tpm.extend(listed)
    path = write("e", tpm.evidence("n", listed.text))
    assert main(verify(verifier, policy, path, "--nonce", "n", "--json")) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["keylime"] is True
    assert "nothing in the list is of cima's agent" in said["findings"][0]["text"]
    # Of a policy that is not for containers nothing is asked.
    host = write("host.json", HOST)
    assert main(verify(verifier, host, path, "--nonce", "n")) == 0


def test_what_only_cima_finds_makes_evidence_invalid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    node.list.violation(f"cima-image:{WEB}")
    tpm.extend(node.list)
    assert main(verify(verifier, policy, write("e", tpm.evidence("n", node.list.text)), "--nonce", "n", "--json")) == 1
    said = json.loads(capsys.readouterr().out)
    # By its default configuration Keylime lets violations of IMA's own pass.
    assert said["keylime"] is True
    assert "no hash covers" in said["findings"][0]["text"]


def test_evidence_is_judged_by_the_policy_given_and_no_other(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    node = good_node("kernel")
    evidence = tpm.evidence("n", node.list.text)
    evidence["runtime_policy"] = Path(policy).read_text()
    assert main(verify(verifier, policy, write("e", evidence), "--nonce", "n")) == 2
    assert 'the key "runtime_policy" is not one of evidence' in capsys.readouterr().err


def test_evidence_that_is_none_is_named(verifier: Running, policy: str, write: Write, capsys: Captured) -> None:
    good = dict.fromkeys(("quote", "nonce", "hash_alg", "tpm_ek", "tpm_ak", "ima_measurement_list"), "YWJj")
    cases: list[tuple[Any, str]] = [
        ("no json", "no JSON: line 1"),
        ([], "no JSON object"),
        ({**good, "quote": ""}, 'the key "quote" is missing, empty or no text'),
        ({**good, "tpm_ak": 7}, 'the key "tpm_ak" is missing, empty or no text'),
        ({**good, "hash_alg": "sha1"}, '"hash_alg" is none of sha256, sha384'),
        ({**good, "hash_alg": "sha256", "tpm_ak": "-"}, '"tpm_ak" is no base64'),
        ({**good, "hash_alg": "sha256"}, '"quote" is not r and three parts'),
        ({**good, "hash_alg": "sha256", "quote": "rYQ==:YQ==:YQ=="}, '"quote" has no TPMS_ATTEST of a quote'),
    ]
    for content, said in cases:
        path = write("evidence.json", content)
        assert main(verify(verifier, policy, path)) == 2
        assert f"error: {path}: " in (error := capsys.readouterr().err)
        assert said in error


def test_an_answer_that_is_not_valid_without_a_reason_is_not_valid(
    verifier: Running, policy: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    evidence = write("e", tpm.evidence("n", good_node("kernel").list.text))
    answers = {
        '{"results": {"supported_versions": ["2.6"], "valid": false, "failures": []}}': 1,
        '{"results": {"supported_versions": ["2.6"], "valid": "true"}}': 2,
    }
    for text, code in answers.items():
        with _server(verifier, 200, text) as url:
            arguments = ["--verifier", url, *verifier.arguments[2:4], "--policy", policy, "--nonce", "n", evidence]
            assert main(["verify", *arguments]) == code
    output = capsys.readouterr()
    assert output.out == "Keylime refuses, and gives no reason\nnot valid\n"
    assert "the answer does not say whether the evidence is valid" in output.err


# --- servers and certificates


@contextlib.contextmanager
def _server(verifier: Running, code: int, text: str) -> Iterator[str]:
    """Answers all requests with the same, and has the verifier's certificate."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if code:
                self.send_response(code)
                self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    directory = verifier.certificates
    context.load_cert_chain(directory / "server-cert.crt", directory / "server-private.pem")
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _forwarded(host: str, port: int) -> Iterator[None]:
    """The same port of another address leads to the verifier."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server((host, port)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield


def _self_signed(directory: Path) -> tuple[str, str]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = datetime.datetime(2026, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    paths = directory / "nobody.crt", directory / "nobody.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])
