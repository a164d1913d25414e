"""Patients keep their split, whoever comes and goes."""

from __future__ import annotations

import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.config.site import SplitShares
from acm_core.data.splits import Split, load_or_create_salt, patient_numbers, split_of

SALT, OTHER = b"s" * 32, b"t" * 32
PATIENTS = [f"patient-{number}" for number in range(5000)]


def test_splits_never_change() -> None:
    """Pinned: another rule would test models on patients that they were trained on."""
    splits = " ".join(split_of(f"p{number}", SALT, SplitShares()).value for number in range(8))
    assert splits == "validation test train train validation train train train"


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.0, 0.5), (0.25, 0.0)])
def test_shares(validation: float, test: float) -> None:
    shares = SplitShares(validation=validation, test=test)
    counts = Counter(split_of(patient, SALT, shares) for patient in PATIENTS)
    # Four standard deviations of a share of 5000 are at most 0.029.
    assert counts[Split.TEST] / 5000 == pytest.approx(test, abs=0.029)
    assert counts[Split.VALIDATION] / 5000 == pytest.approx(validation, abs=0.029)
    assert (counts[Split.TEST] == 0) is (test == 0)
    assert (counts[Split.VALIDATION] == 0) is (validation == 0)


def test_another_salt_splits_anew() -> None:
    """Independent splits of 0.7, 0.1 and 0.2 agree on 0.54 of the patients."""
    same = sum(
        split_of(patient, SALT, SplitShares()) is split_of(patient, OTHER, SplitShares())
        for patient in PATIENTS
    )
    assert same / 5000 == pytest.approx(0.54, abs=0.029)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_that_leave_nobody_to_train_on(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match=r"expected shares together below 1|Input should be"):
        SplitShares(validation=validation, test=test)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ä", "a ", "B"]), max_size=12))
def test_numbers_tell_patients_apart_and_nothing_else(patients: list[str]) -> None:
    numbers = patient_numbers(patients)
    assert len(numbers) == len(patients)
    assert sorted(set(numbers)) == list(range(len(set(patients))))
    assert all(
        (first == second) is (one == other)
        for one, first in zip(patients, numbers, strict=True)
        for other, second in zip(patients, numbers, strict=True)
    )


def test_the_salt_is_drawn_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        salt = load_or_create_salt(tmp_path / "new" / "state")
    finally:
        os.umask(umask)
    assert len(salt) == 32
    assert load_or_create_salt(tmp_path / "new" / "state") == salt
    assert stat.S_IMODE((tmp_path / "new" / "state" / "salt").stat().st_mode) == 0o600
    assert load_or_create_salt(tmp_path / "other") != salt


def test_whoever_comes_at_the_same_time_gets_the_same_salt(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(load_or_create_salt, [tmp_path] * 32))
    assert salts == {(tmp_path / "salt").read_bytes()}


def test_a_crash_while_the_salt_is_written_leaves_no_trap(tmp_path: Path) -> None:
    """In a container every start has the same process id, and so the same temporary file."""
    (tmp_path / f".salt.{os.getpid()}.tmp").write_bytes(b"half")
    assert len(load_or_create_salt(tmp_path)) == 32


@pytest.mark.parametrize("content", [b"", b"x" * 31])
def test_a_short_salt_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "salt").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected a salt of 32 bytes, got {len(content)}: restore it"):
        load_or_create_salt(tmp_path)
    assert (tmp_path / "salt").read_bytes() == content
