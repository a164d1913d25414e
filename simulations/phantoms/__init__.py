"""Synthetic hospitals: phantom chest films with planted findings, written as DICOM."""

from simulations.phantoms.film import PhantomFilm, draw_film
from simulations.phantoms.findings import FINDINGS, NO_FINDING
from simulations.phantoms.hospital import LABELS, HospitalSpec
from simulations.phantoms.scanner import SCANNERS, Scanner
from simulations.phantoms.writing import write_hospital

__all__ = [
    "FINDINGS",
    "LABELS",
    "NO_FINDING",
    "SCANNERS",
    "HospitalSpec",
    "PhantomFilm",
    "Scanner",
    "draw_film",
    "write_hospital",
]
