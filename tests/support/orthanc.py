"""Orthanc, a real archive that speaks DICOMweb, with a storage of its own; tests are skipped where it is not there."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hospital_pki import issued

from acm_core.files import file_sha256
from acm_core.processes import free_port

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "acm-fed", "s3cret-of-the-archive"


class Orthanc:
    """One that runs. `dicomweb` is its address, behind TLS where `ca` is given."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.ca: Path | None = None
        self._base = f"http://127.0.0.1:{port}"
        self.dicomweb = f"{self._base}/dicom-web"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.auth = (USER, PASSWORD)

    def call(self, method: str, path: str, **how: Any) -> requests.Response:
        answer = self._session.request(method, self._base + path, timeout=30, **how)
        answer.raise_for_status()
        return answer

    def store(self, content: bytes) -> None:
        """Put a DICOM file in."""
        self.call("POST", "/instances", data=content)

    def stored_files(self) -> dict[str, Path]:
        """SHA-256 of a DICOM file as it was put in → where Orthanc keeps it."""
        files = (path for path in (self.folder / "storage").rglob("*") if path.is_file())
        return {file_sha256(path): path for path in files}

    def site_settings(self, folder: Path, **more: Any) -> dict[str, Any]:
        """The value of `films:`."""
        token = folder / "token"
        token.write_text(f"{USER}:{PASSWORD}\n")
        token.chmod(0o600)
        settings = {
            "dicomweb": self.dicomweb,
            "token_file": str(token),
            "requests_a_second": 1000,
            "at_once": 2,
        }
        return settings | ({"ca": str(self.ca)} if self.ca else {}) | more


@contextlib.contextmanager
def running(folder: Path, port: int | None = None) -> Iterator[Orthanc]:
    """Start it on a free port, over what it stored in this folder before."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not _PLUGIN.is_file():
        pytest.skip("no Orthanc with DICOMweb here: apt-get install orthanc orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(5):  # another process may take a port that was free
        archive = Orthanc(folder, port or free_port())
        process = _started(program, archive)
        if _answers(archive, process):
            break
        _end(process)
    else:
        log = (folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"expected Orthanc to start, got:\n{log}")
    try:
        yield archive
    finally:
        _end(process)


def _started(program: str, archive: Orthanc) -> subprocess.Popen[bytes]:
    settings = {
        "StorageDirectory": str(archive.folder / "storage"),
        "IndexDirectory": str(archive.folder / "index"),
        "HttpPort": archive.port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
        "HttpThreadsCount": 10,
        "MaximumStorageCacheSize": 0,  # what happens to a stored file shows at once
    }
    (archive.folder / "orthanc.json").write_text(json.dumps(settings))
    with (archive.folder / "log").open("ab") as log:
        return subprocess.Popen([program, str(archive.folder / "orthanc.json")], stdout=log, stderr=log)


def _answers(archive: Orthanc, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            archive.call("GET", "/system")
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def behind_tls(archive: Orthanc) -> Iterator[Orthanc]:
    """Put it behind a certificate of the hospital's own authority, as a reverse proxy does.

    Debian's Orthanc 1.10 dies of its first TLS connection.
    """
    authority = issued("Hospital root", authority=True)
    server = issued("pacs", authority, names=["127.0.0.1"])
    ca, chain = archive.folder / "ca.pem", archive.folder / "server.pem"
    ca.write_bytes(authority.pem)
    chain.write_bytes(server.pem + server.key_pem())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    ended = threading.Event()
    proxy = threading.Thread(target=lambda: _accept(listener, context, archive.port, ended))
    proxy.start()
    before = archive.dicomweb
    archive.ca, archive.dicomweb = ca, f"https://127.0.0.1:{listener.getsockname()[1]}/dicom-web"
    try:
        yield archive
    finally:
        archive.ca, archive.dicomweb = None, before
        ended.set()
        proxy.join()
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, port: int, ended: threading.Event) -> None:
    with ThreadPoolExecutor(32) as pool:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                pool.submit(_pass_on, connection, context, port, ended)


def _pass_on(connection: socket.socket, context: ssl.SSLContext, port: int, ended: threading.Event) -> None:
    with contextlib.suppress(OSError), connection:
        connection.settimeout(10)
        with (
            context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            other = {client: server, server: client}
            while not ended.is_set():
                for end in [client] if client.pending() else select.select(list(other), [], [], 0.2)[0]:
                    data = end.recv(2**16)
                    if not data:
                        return
                    other[end].sendall(data)
