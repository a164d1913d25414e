"""DICOM files written for one test each, and the real material where it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import lookup_table, write_dicom
from pydicom import Dataset

torch.set_num_threads(1)

REAL = Path(__file__).resolve().parents[3] / "../shared/data"


@pytest.fixture(scope="session")
def dicom() -> Callable[..., bytes]:
    return write_dicom


@pytest.fixture(scope="session")
def lut() -> Callable[[np.ndarray, int, int], Dataset]:
    return lookup_table


@pytest.fixture(scope="session")
def ramp() -> np.ndarray:
    """Every 12-bit value at least once, 80×64; no symmetry."""
    return np.linspace(0, 4095, 80 * 64).round().astype(np.uint16).reshape(80, 64)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real films."""
    if not REAL.is_dir():
        pytest.skip("../shared/data (real films) is not here")
    return REAL
