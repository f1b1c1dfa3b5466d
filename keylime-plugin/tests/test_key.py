# SPDX-License-Identifier: Apache-2.0
"""What a node says of its key is computed anew, from keys of a software TPM; and a credential for the computed name opens there."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cima_keylime.cli import main
from conftest import Write
from software_tpm import ATTRIBUTES, Tpm

Captured = pytest.CaptureFixture[str]
Said = dict[str, Any]


def judged(said: Any, write: Write, capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = main(["key", write("key.json", said), *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


# --- keys of a TPM


@pytest.mark.parametrize("scheme", ["ecc256:ecdsa-sha256:null", "rsa2048:rsassa-sha256:null"])
def test_a_key_of_a_tpm_has_the_name_that_the_tpm_gives_it(
    scheme: str, tpm: Tpm, write: Write, capsys: Captured
) -> None:
    said = tpm.key(scheme)
    code, out, err = judged(said, write, capsys)
    assert (code, err) == (0, "")
    assert f"name         {said['name']}\nfingerprint  {said['ak_sha256']}\ncertificate  none in the TPM\n" in out
    assert judged(said, write, capsys, "--fingerprint") == (0, f"{said['ak_sha256']}\n", "")
    assert json.loads(judged(said, write, capsys, "--json")[1]) == {
        "name": said["name"],
        "ak_sha256": said["ak_sha256"],
        "certificate": False,
        "faults": [],
    }
    # As older agents wrote it.
    del said["ak_sha256"]
    assert judged(said, write, capsys)[0] == 0


def test_a_key_of_keylimes_agent_is_taken_too(tpm: Tpm, write: Write, capsys: Captured) -> None:
    assert judged(tpm.agents_key(), write, capsys)[0] == 0


def test_only_a_credential_for_the_computed_name_opens(
    tpm: Tpm, write: Write, tmp_path: Path, capsys: Captured
) -> None:
    ek = str(tmp_path / "ek.pub")
    code, out, _ = judged(tpm.key(), write, capsys, "--ek", ek)
    assert code == 0
    name = out.split("name         ")[1].split("\n")[0]
    assert tpm.opened(ek, name, b"a secret") == b"a secret"
    with pytest.raises(AssertionError, match="tpm2_activatecredential"):
        tpm.opened(ek, name[:-2] + f"{int(name[-2:], 16) ^ 1:02x}", b"a secret")


@pytest.mark.parametrize(
    ("scheme", "attributes", "fault"),
    [
        ("ecc256:ecdsa-sha256:null", ATTRIBUTES.replace("restricted|", ""), "it is not restricted"),
        ("ecc256:ecdsa-sha256:null", ATTRIBUTES.replace("fixedtpm|fixedparent|", ""), "not fixedTPM, fixedParent"),
        ("ecc256:ecdsa-sha256:null", ATTRIBUTES.replace("userwithauth", "adminwithpolicy"), "it is not userWithAuth"),
        ("ecc256:ecdsa-sha256:null", ATTRIBUTES + "|stclear", "it has the attributes 0x4, too"),
        ("ecc384:ecdsa-sha384:null", ATTRIBUTES, "does not sign by ECDSA over P-256 with SHA-256"),
        ("ecc256:ecdsa-sha1:null", ATTRIBUTES, "does not sign by ECDSA over P-256 with SHA-256"),
        ("ecc256:ecschnorr-sha256:null", ATTRIBUTES, "does not sign by ECDSA over P-256 with SHA-256"),
        ("rsa2048:rsapss-sha256:null", ATTRIBUTES, "does not sign by RSASSA with SHA-256"),
        ("ecc256:aes128cfb", ATTRIBUTES.replace("sign", "decrypt"), "it is not sign"),
    ],
)
def test_a_key_whose_quotes_prove_nothing_is_refused(
    scheme: str, attributes: str, fault: str, tpm: Tpm, write: Write, capsys: Captured, tmp_path: Path
) -> None:
    said = tpm.key(scheme, attributes)
    ek = tmp_path / "ek.pub"
    code, out, err = judged(said, write, capsys, "--fingerprint", "--ek", str(ek))
    assert (code, out) == (1, "")
    assert fault in err
    assert not ek.exists()
    assert fault in " ".join(json.loads(judged(said, write, capsys, "--json")[1])["faults"])


def test_an_endorsement_key_that_is_none_is_refused(tpm: Tpm, write: Write, capsys: Captured) -> None:
    said = tpm.key()
    for key in (tpm.key()["tpm_ak"], tpm.key("ecc256:null:null", ATTRIBUTES.replace("restricted|", ""))["tpm_ak"]):
        code, out, err = judged({**said, "tpm_ek": key}, write, capsys)
        assert (code, out) == (1, "")
        assert "tpm_ek is no endorsement key: " in err


# --- what a hostile node says


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def public(
    attributes: int = 0x50472, scheme: bytes = b"\0\x18\0\x0b", curve: int = 3, point: bytes = b"\x07" * 32
) -> bytes:
    """A `TPM2B_PUBLIC` over elliptic curves, written from the specification."""
    parameters = b"\0\x10" + scheme + struct.pack(">H", curve) + b"\0\x10"
    return sized(struct.pack(">HHI", 0x23, 0x0B, attributes) + sized(b"") + parameters + sized(point) * 2)


def endorsement() -> bytes:
    """One whose private half nobody has."""
    parameters = b"\0\x06\0\x80\0\x43" + b"\0\x10" + struct.pack(">HI", 2048, 0)
    area = struct.pack(">HHI", 0x01, 0x0B, 0x300B2) + sized(bytes(32)) + parameters + sized(b"\xc5" * 256)
    return sized(area)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def said_of(ak: bytes, ek: bytes | None = None) -> Said:
    return {
        "handle": "0x8101c1a0",
        "name": "000b" + hashlib.sha256(ak[2:]).hexdigest(),
        "tpm_ak": base64_of(ak),
        "ak_sha256": hashlib.sha256(ak).hexdigest(),
        "tpm_ek": base64_of(ek or endorsement()),
        "ek_certificate": None,
    }


def test_the_name_or_fingerprint_of_another_key_is_refused(write: Write, capsys: Captured) -> None:
    genuine, own = said_of(public()), said_of(public(point=b"\x08" * 32))
    assert judged(genuine, write, capsys)[0] == judged(own, write, capsys)[0] == 0
    for key in ("name", "ak_sha256"):
        code, out, err = judged({**own, key: genuine[key]}, write, capsys, "--fingerprint")
        assert (code, out) == (1, "")
        assert f'"{key}" is that of another key: tpm_ak has {own[key]}' in err
    # As both are of the genuine key, it is tpm_ak that is not.
    code, _, err = judged({**genuine, "tpm_ak": own["tpm_ak"]}, write, capsys)
    assert (code, err.count("is that of another key")) == (1, 2)
    assert judged({**own, "name": own["name"].upper()}, write, capsys)[0] == 0


@pytest.mark.parametrize("bit", [1, 4, 5, 6, 16, 18])
def test_each_attribute_is_needed(bit: int, write: Write, capsys: Captured) -> None:
    code, _, err = judged(said_of(public(attributes=0x50472 & ~(1 << bit))), write, capsys)
    assert code == 1
    assert "tpm_ak is no key that signs only what its TPM says" in err


@pytest.mark.parametrize("bit", [0, 2, 7, 11, 17, 19, 31])
def test_no_other_attribute_is_taken_but_no_da(bit: int, write: Write, capsys: Captured) -> None:
    assert judged(said_of(public(attributes=0x50072)), write, capsys)[0] == 0
    code, _, err = judged(said_of(public(attributes=0x50472 | 1 << bit)), write, capsys)
    assert code == 1
    assert "tpm_ak is no key that does nothing but sign" in err


def test_what_is_no_key_is_named(write: Write, capsys: Captured) -> None:
    good = said_of(public())
    ak = public()
    cases: list[tuple[Any, str]] = [
        ("no json", "no JSON: line 1"),
        ([], "no JSON object"),
        ({}, '"name" is missing'),
        ({**good, "tpm_ak": 7}, '"tpm_ak" is missing, empty or no text'),
        ({**good, "tpm_ek": None}, '"tpm_ek" is missing, empty or no text'),
        ({**good, "ak_sha256": 7}, '"ak_sha256" is no text'),
        ({**good, "ak_sha256": "x"}, '"ak_sha256" is not hexadecimal'),
        ({**good, "name": "\x1b[2J"}, '"name" is not hexadecimal'),
        ({**good, "tpm_ak": "-"}, '"tpm_ak" is no base64'),
        ({**good, "tpm_ak": base64_of(ak + b"\0")}, "it goes on"),
        ({**good, "tpm_ak": base64_of(sized(ak[2:] + b"\0"))}, "it goes on"),
        ({**good, "tpm_ak": base64_of(ak[:-1])}, "it ends early"),
        ({**good, "tpm_ak": base64_of(sized(ak[2:-1]))}, "it ends early"),
        ({**good, "tpm_ak": base64_of(sized(b"\0\x08" + ak[4:]))}, "it has the type 0x0008"),
        ({**good, "tpm_ak": base64_of(public(point=b""))}, "it has no point of its curve"),
        ({**good, "tpm_ak": base64_of(public(point=b"\1" * 33))}, "it has no point of its curve"),
        ({**good, "tpm_ek": "AAA="}, '"tpm_ek" is no TPM2B_PUBLIC of an RSA or ECC key: it ends early'),
        ({**good, "ek_certificate": "AAA="}, '"ek_certificate" is no certificate'),
        ({**good, "ek_certificate": base64_of(b"\x30\x03\x02\x01\x01")}, '"ek_certificate" is no certificate'),
    ]
    for content, said in cases:
        code, out, err = judged(content, write, capsys)
        assert (code, out) == (2, ""), said
        assert "key.json: " in err
        assert said in err


def test_no_bytes_of_a_key_lead_to_anything_but_an_exit_code(write: Write, capsys: Captured) -> None:
    source = random.Random(7)
    certificate = certified(ec.generate_private_key(ec.SECP256R1()))
    codes = set()
    for _ in range(600):
        said = said_of(public(), endorsement())
        said["ek_certificate"] = base64_of(certificate)
        key = source.choice(["tpm_ak", "tpm_ek", "ek_certificate"])
        data = bytearray(base64.b64decode(said[key]))
        for _ in range(source.randrange(1, 3)):
            data[source.randrange(len(data))] = source.choice([0, 1, 0x7F, 0x80, 0x82, 0xFF, source.randrange(256)])
        said[key] = base64_of(bytes(data[: source.choice([len(data), source.randrange(len(data))])]))
        codes.add(judged(said, write, capsys)[0])
    assert codes == {1, 2}


# --- certificates of endorsement keys


def certified(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """DER, of a maker's that signs by itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a maker of TPMs")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=36500))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def elliptic() -> tuple[bytes, bytes]:
    """An endorsement key and its certificate."""
    # Whose x has a zero in front, which a TPM may leave away.
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        numbers = key.public_key().public_numbers()
        if numbers.x >> 248 == 0:
            break
    point = [sized(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.x, numbers.y)]
    parameters = b"\0\x06\0\x80\0\x43" + b"\0\x10" + b"\0\x03" + b"\0\x10"
    area = struct.pack(">HHI", 0x23, 0x0B, 0x300B2) + sized(bytes(32)) + parameters + b"".join(point)
    return sized(area), certified(key)


def modular() -> tuple[bytes, bytes]:
    """Likewise, RSA."""
    key = rsa.generate_private_key(65537, 2048)
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    area = endorsement()[2:-256] + modulus
    return sized(area), certified(key)


@pytest.mark.parametrize("kind", [elliptic, modular])
def test_a_certificate_of_the_endorsement_key_is_written(
    kind: Any, write: Write, tmp_path: Path, capsys: Captured
) -> None:
    ek, certificate = kind()
    said = said_of(public(), ek)
    # The TPM's storage for it may be longer.
    said["ek_certificate"] = base64_of(certificate + b"\xff" * 40)
    pem, der = str(tmp_path / "ek.pem"), str(tmp_path / "ek.der")
    code, out, _ = judged(said, write, capsys, "--certificate", pem)
    assert code == 0
    assert "certificate  of tpm_ek; who signed it is not checked here\n" in out
    assert judged(said, write, capsys, "--certificate", der)[0] == 0
    assert Path(der).read_bytes() == certificate
    done = subprocess.run(["openssl", "verify", "-CAfile", pem, pem], capture_output=True, text=True, check=False)
    assert done.stdout == f"{pem}: OK\n", done.stderr


def test_a_certificate_of_another_endorsement_key_is_refused(write: Write, tmp_path: Path, capsys: Captured) -> None:
    (ek, _), (_, others) = modular(), modular()
    said = said_of(public(), ek)
    said["ek_certificate"] = base64_of(others)
    code, out, err = judged(said, write, capsys, "--certificate", str(tmp_path / "ek.pem"), "--ek", str(tmp_path / "e"))
    assert (code, out) == (1, "")
    assert '"ek_certificate" is of another key than tpm_ek' in err
    assert os.listdir(tmp_path) == ["key.json"]


def test_without_a_certificate_none_is_written(write: Write, tmp_path: Path, capsys: Captured) -> None:
    code, _, err = judged(said_of(public()), write, capsys, "--certificate", str(tmp_path / "ek.pem"))
    assert code == 2
    assert "--certificate: the node's TPM has none" in err
