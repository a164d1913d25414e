"""Patients into training, validation and test, the same way every time and whatever films are added."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from acm_core.config.site import SplitShares
from acm_core.files import write_atomically, write_private

_SALT_BYTES = 32
_SHARES = 2**64


class Split(StrEnum):
    """A patient's films all go one way."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def split_of(patient: str, salt: bytes, shares: SplitShares) -> Split:
    """The split of a patient: by HMAC-SHA256 of the id under the site's salt, so it depends on no other patient.

    Args:
        patient: the hospital's own id.
        salt: secret of the site: without it nobody can tell from an id which split the patient is in.
    """
    draw = int.from_bytes(_digest(patient, salt)[:8], "big") / _SHARES
    if draw < shares.test:
        return Split.TEST
    return Split.VALIDATION if draw < shares.test + shares.validation else Split.TRAIN


def patient_numbers(patients: Sequence[str]) -> list[int]:
    """A number for each film's patient, from 0 in order of appearance: tells patients apart and nothing else."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(patient, len(numbers)) for patient in patients]


def load_or_create_salt(state: Path) -> bytes:
    """The site's salt, drawn from the operating system at first use and kept in its state folder (mode 0600).

    Raises:
        ValueError: the file is too short to be a salt.
    """
    path = state / "salt"
    state.mkdir(parents=True, exist_ok=True)
    with (state / ".salt.lock").open("a") as lock:
        # Two processes that start together must not split the patients by two salts.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            write_atomically(path, lambda temporary: write_private(temporary, os.urandom(_SALT_BYTES)))
    salt = path.read_bytes()
    if len(salt) < _SALT_BYTES:
        raise ValueError(
            f"expected a salt of {_SALT_BYTES} bytes, got {len(salt)}: restore it from a backup; a new salt splits the "
            "patients anew, and films that were trained on would be tested on"
        )
    return salt


def _digest(patient: str, salt: bytes) -> bytes:
    return hmac.new(salt, patient.encode(), hashlib.sha256).digest()
