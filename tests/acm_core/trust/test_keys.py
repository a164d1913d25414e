"""A site's key: made once, for its owner only, and known by the fingerprint that ssh-keygen shows."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from crashes import dies_at_change
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.trust import keys
from acm_core.trust.keys import SiteKeyError

KEY = ec.generate_private_key(ec.SECP384R1())
TEXT = keys.public_text(KEY.public_key())

needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed"
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        path = tmp_path / "state" / "federation" / "site.key"
        made = keys.create_key(path)
    finally:
        os.umask(former)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]
    assert keys.load_key(path).private_numbers() == made.private_numbers()


def test_a_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    keys.create_key(tmp_path / "open" / "site.key")
    assert mode(tmp_path / "open") == 0o700


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(b"the only one")
    with pytest.raises(FileExistsError):
        keys.create_key(path)
    assert path.read_bytes() == b"the only one"
    assert list(tmp_path.iterdir()) == [path]


def test_killed_while_it_makes_a_key_it_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    for change in range(10):
        died = dies_at_change(change, lambda: keys.create_key(path))
        if path.exists():
            keys.load_key(path)
            path.unlink()
        if not died:
            assert change == 2
            return
    pytest.fail("expected a few changes only")


@needs_ssh_keygen
def test_ssh_keygen_shows_the_same_fingerprint_and_public_key(tmp_path: Path) -> None:
    key = keys.create_key(tmp_path / "site.key").public_key()
    shown = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "site.key"], capture_output=True, text=True, check=True
    ).stdout
    size, fingerprint, *_, kind = shown.split()
    assert (size, fingerprint, kind) == ("384", keys.fingerprint(key), "(ECDSA)")
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "site.key"], capture_output=True, text=True, check=True
    ).stdout
    assert public.split()[:2] == keys.public_text(key).split()


@needs_ssh_keygen
def test_a_key_of_ssh_keygen_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", path], check=True)
    text = " ".join((tmp_path / "site.key.pub").read_text().split()[:2])
    assert keys.public_text(keys.load_key(path).public_key()) == text


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o660, 0o666, 0o610])
def test_a_key_that_others_can_reach_is_refused_with_the_fix(tmp_path: Path, others: int) -> None:
    path = tmp_path / "site.key"
    keys.create_key(path)
    path.chmod(others)
    with pytest.raises(SiteKeyError, match=rf"got mode {others:04o}: .* chmod 600 {path}"):
        keys.load_key(path)
    path.chmod(0o400)
    keys.load_key(path)


@needs_ssh_keygen
def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "secret", "-f", path], check=True)
    with pytest.raises(SiteKeyError, match="without a passphrase"):
        keys.load_key(path)


def private(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        private(KEY)[:-100],
        private(ec.generate_private_key(ec.SECP256R1())),
        private(ed25519.Ed25519PrivateKey.generate()),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["empty", "text", "cut off", "P-256", "Ed25519", "PKCS8"],
)
def test_another_kind_of_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SiteKeyError, match="expected an ECDSA key on P-384 in OpenSSH's format without"):
        keys.load_key(path)


def test_no_key_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(SiteKeyError, match="got No such file"):
        keys.load_key(tmp_path / "site.key")


def public(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT + " A@hospital",
        TEXT + "\n",
        TEXT.replace(" ", "  "),
        'command="sh" ' + TEXT,
        public(ec.generate_private_key(ec.SECP256R1())),
        public(ed25519.Ed25519PrivateKey.generate()),
        TEXT * 1000,
    ],
    ids=["empty", "comment", "newline", "two_spaces", "command", "p256", "ed25519", "long"],
)
def test_a_public_key_has_one_form(text: str) -> None:
    with pytest.raises(SiteKeyError):
        keys.parse_public_key(text)


@settings(deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_a_changed_public_key_is_another_or_none(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        key = keys.parse_public_key(changed)
    except SiteKeyError:
        return
    assert keys.public_text(key) == changed
    assert (keys.fingerprint(key) == keys.fingerprint(KEY.public_key())) == (changed == TEXT)
