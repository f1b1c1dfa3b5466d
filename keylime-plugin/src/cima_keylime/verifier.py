# SPDX-License-Identifier: Apache-2.0
"""A Keylime verifier over REST: version, allowlists, evidence.

Paths and bodies as in Keylime 7.14.3, `keylime/web/verifier_server.py`, `AllowlistHandler` and `VerifyEvidenceHandler` in
`keylime/cloud_verifier_tornado.py`, and the tenant's `do_add_runtime_policy`. API 3.0 has these paths, but answers 404.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Any

from cima_keylime.unusable import UnusableError, shown

#: The versions of the API whose requests are as here.
KNOWN_VERSIONS = ("2.6", "2.5", "2.4", "2.3")
#: Characters that need no escaping in a path: Keylime does not take escapes back.
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~-]+")

_CLOSED = (
    BrokenPipeError,
    ConnectionResetError,
    http.client.RemoteDisconnected,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


class RefusedError(UnusableError):
    """The verifier answered, and refused."""

    def __init__(self, text: str, code: int) -> None:
        """With the code of HTTP."""
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Tls:
    """How both sides prove who they are."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    check_hostname: bool = True


class Verifier:
    """A verifier, by its URL."""

    def __init__(self, url: str, tls: Tls, timeout: float = 60) -> None:
        """Raises `UnusableError` if the URL or a file of `tls` cannot be used."""
        try:
            parts = urllib.parse.urlsplit(url if "//" in url else f"https://{url}")
            host, port = parts.hostname, parts.port or 8881
            # As the resolver does.
            (host or "").encode("idna")
        except ValueError as error:
            raise UnusableError(f"--verifier {shown(url)}: {error}") from error
        others = (
            parts.path.strip("/") or parts.query or parts.fragment or re.search(r"[@\s\x00-\x20\x7f]", parts.netloc)
        )
        if parts.scheme != "https" or not host or others:
            raise UnusableError(f"--verifier {shown(url)}: not https://HOST:PORT, and a verifier speaks nothing else")
        self.url = f"https://{parts.netloc}"
        self._host, self._port, self._timeout = host, port, timeout
        self._context = _context(tls)
        self._version: str | None = None

    def push(self, name: str, policy: str, update: bool) -> None:
        """Stores a runtime policy under a name: a new one, or with `update` in the place of one that is there."""
        if _NAME.fullmatch(name) is None:
            raise UnusableError(f'--name "{shown(name)}": Keylime takes letters, digits and . _ ~ - in a name')
        body = {
            "tpm_policy": "",
            "runtime_policy": base64.b64encode(policy.encode()).decode(),
            "runtime_policy_key": "",
        }
        self._api("PUT" if update else "POST", f"/allowlists/{name}", body)

    def stored(self, name: str) -> str | None:
        """The text of a stored policy; None if there is none of this name."""
        try:
            results = self._api("GET", f"/allowlists/{name}")
        except RefusedError as error:
            if error.code == 404:
                return None
            raise
        found = results.get("runtime_policy")
        return found if isinstance(found, str) else None

    def verify(self, data: dict[str, str]) -> dict[str, Any]:
        """Has evidence judged: `valid`, `failures`."""
        results = self._api("POST", "/verify/evidence", {"type": "tpm", "data": data})
        if not isinstance(results.get("valid"), bool):
            raise UnusableError(f"{self.url}: the answer does not say whether the evidence is valid")
        return results

    def version(self) -> str:
        """The newest version of the API that is known here and spoken there."""
        if self._version is None:
            code, answer = self._request("GET", "/version", None)
            if code == 410:
                # In push mode a verifier does not say (`show_versions`, server_info_controller.py).
                self._version = KNOWN_VERSIONS[0]
                return self._version
            supported = _results(answer).get("supported_versions")
            if code != 200 or not isinstance(supported, list):
                raise UnusableError(f"{self.url}: no Keylime verifier: /version answers {code}")
            self._version = next((one for one in KNOWN_VERSIONS if one in supported), None)
            if self._version is None:
                theirs = shown(", ".join(map(str, supported)))
                raise UnusableError(
                    f"{self.url}: speaks the API versions {theirs}, and only {', '.join(KNOWN_VERSIONS)} are known here"
                )
        return self._version

    def _api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        code, answer = self._request(method, f"/v{self.version()}{path}", body)
        if code >= 400:
            status = answer.get("status") if isinstance(answer, dict) else None
            said = shown(str(status)) if status else http.client.responses.get(code, "")
            if code in (400, 413) and answer is None and body is not None:
                # Of Tornado's own: no handler of Keylime's has seen the request.
                said += ": what was sent may be more than its max_upload_size"
            raise RefusedError(f"{self.url}: {method} {path}: {code} {said}", code)
        return _results(answer)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        sent = json.dumps(body).encode() if body is not None else None
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._context)
        try:
            headers = {"Content-Type": "application/json"} if sent is not None else {}
            connection.request(method, path, sent, headers)
            response = connection.getresponse()
            text = response.read()
        except ssl.SSLCertVerificationError as error:
            raise UnusableError(f"{self.url}: its certificate is refused: {error.verify_message}") from error
        except socket.timeout as error:
            raise UnusableError(f"{self.url}: no answer within {self._timeout:g} s") from error
        except _CLOSED as error:
            why = "is the certificate one of its CA's?"
            if sent is not None:
                why = f"{len(sent) >> 10} KiB may be more than its max_upload_size"
            raise UnusableError(f"{self.url}: it closed the connection: {why}") from error
        except ssl.SSLError as error:
            said = f"TLS fails: {error.reason or error}; is the certificate one of its CA's?"
            raise UnusableError(f"{self.url}: {said}") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnusableError(f"{self.url}: no verifier answers there: {shown(str(error))}") from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None


def _results(answer: Any) -> dict[str, Any]:
    found = answer.get("results") if isinstance(answer, dict) else None
    return found if isinstance(found, dict) else {}


def _context(tls: Tls) -> ssl.SSLContext:
    if tls.ca == "":
        # By no file Python means the system's.
        raise UnusableError('--ca "": no file')
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise UnusableError(f"--ca {tls.ca}: {_why(error)}") from error
    context.check_hostname = tls.check_hostname
    if tls.cert is None and tls.key is not None:
        raise UnusableError("--key needs --cert")
    if tls.cert is not None:
        try:
            context.load_cert_chain(tls.cert, tls.key)
        except (OSError, ssl.SSLError) as error:
            files = f"--cert {tls.cert}" + (f" with --key {tls.key}" if tls.key else "")
            raise UnusableError(f"{files}: {_why(error)}") from error
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not PEM of a certificate and its key ({error.reason or error})"
    return error.strerror or str(error)
