"""Thousands of damaged and lying DICOM files: each is a film within bounds or is set aside, whatever its bytes.

A mutant is made from its number alone, so one that fails can be made again:
`python tests/acm_core/data/test_fuzz.py SEEDS FIRST LAST` judges mutants FIRST to LAST - 1 of the files in SEEDS.
Set ACM_FED_FUZZ to the number of mutants of own films and of real files each, and read the figures.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from acm_core.data.film import decode_film
from acm_core.data.picture import MAX_PIXELS
from acm_core.data.set_aside import FilmSetAside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory from /proc")

MUTANTS = int(os.environ.get("ACM_FED_FUZZ", "150"))
SECONDS_A_MUTANT = 20
MEMORY = 2 * 2**30
"""Bytes of address space beyond what the process has when it starts."""
MAX_SEED_BYTES = 1_000_000
_DRAW = 20261123

Mutation = Callable[[bytearray, np.random.Generator], None]


# Mutants


def flip_bits(content: bytearray, draw: np.random.Generator) -> None:
    low, high = _region(content, draw)
    for place in draw.integers(low, high, draw.integers(1, 20)):
        content[place] ^= 1 << int(draw.integers(8))


def overwrite_a_range(content: bytearray, draw: np.random.Generator) -> None:
    start, end = _range(content, draw)
    fill = [bytes(end - start), b"\xff" * (end - start), draw.bytes(end - start)]
    content[start:end] = fill[draw.integers(3)]


def delete_a_range(content: bytearray, draw: np.random.Generator) -> None:
    start, end = _range(content, draw)
    del content[start:end]


def repeat_a_range(content: bytearray, draw: np.random.Generator) -> None:
    start, end = _range(content, draw)
    content[end:end] = content[start:end]


def truncate(content: bytearray, draw: np.random.Generator) -> None:
    del content[int(draw.integers(1, len(content))) :]


def lie_in_a_number(content: bytearray, draw: np.random.Generator) -> None:
    """Rows, bits and the like; the value stands 8 bytes behind the tag whether the VR is written or not."""
    place = _find(content, _NUMBERS, draw)
    if place is not None:
        value = (
            _ODD_NUMBERS[draw.integers(len(_ODD_NUMBERS))] if draw.random() < 0.8 else draw.integers(2**16)
        )
        word = 2 * int(draw.integers(3)) if content[place : place + 4] == _LUT_DESCRIPTOR else 0
        content[place + 8 + word : place + 10 + word] = struct.pack("<H", value)


def lie_in_a_text(content: bytearray, draw: np.random.Generator) -> None:
    place = _find(content, _TEXTS, draw)
    if place is not None:
        length = content[place + 6] or content[place + 4]
        text = _ODD_TEXTS[draw.integers(len(_ODD_TEXTS))][:length].ljust(length)
        content[place + 8 : place + 8 + length] = text


def lie_in_a_length(content: bytearray, draw: np.random.Generator) -> None:
    place = _find(content, (*_NUMBERS, *_TEXTS, *_SEQUENCES), draw)
    if place is not None:
        length = _ODD_LENGTHS[draw.integers(len(_ODD_LENGTHS))].to_bytes(4, "little")
        start = place + int(draw.choice([4, 6, 8]))
        width = int(draw.choice([2, 4]))
        content[start : start + width] = length[:width]


def lie_in_the_transfer_syntax(content: bytearray, draw: np.random.Generator) -> None:
    place = content.find(b"\x02\x00\x10\x00UI")
    if place >= 0:
        length = int.from_bytes(content[place + 6 : place + 8], "little")
        name = AllTransferSyntaxes[draw.integers(len(AllTransferSyntaxes))].encode()
        name += b"\0" * (len(name) % 2)
        content[place + 6 : place + 8 + length] = struct.pack("<H", len(name)) + name


def lie_in_the_code_stream(content: bytearray, draw: np.random.Generator) -> None:
    """A field behind a frame, table or scan marker of JPEG, JPEG-LS or JPEG 2000."""
    place = _find(content, _MARKERS, draw)
    if place is not None:
        start = place + int(draw.integers(2, 40))
        content[start : start + 2] = struct.pack(">H", _ODD_NUMBERS[draw.integers(len(_ODD_NUMBERS))])


def _tags(*tags: tuple[int, int]) -> tuple[bytes, ...]:
    return tuple(struct.pack("<HH", *tag) for tag in tags)


_LUT_DESCRIPTOR = b"\x28\x00\x02\x30"
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_NUMBERS = (
    *_tags((0x28, 0x02), (0x28, 0x06), (0x28, 0x10), (0x28, 0x11)),
    *_tags((0x28, 0x100), (0x28, 0x101), (0x28, 0x102), (0x28, 0x103), (0x28, 0x120)),
    _LUT_DESCRIPTOR,
)
"""Samples, planes, Rows, Columns; Bits Allocated, Bits Stored, High Bit, Pixel Representation; padding; LUT."""
_TEXTS = _tags(
    *((0x28, 0x04), (0x28, 0x08), (0x28, 0x34), (0x28, 0x30), (0x18, 0x1164), (0x28, 0x1050), (0x28, 0x1051)),
    *((0x28, 0x1052), (0x28, 0x1053), (0x28, 0x1056), (0x10, 0x1010), (0x08, 0x05)),
)
"""Photometric Interpretation, frames, aspect, spacings, window, rescale, VOI function, age, character set."""
_SEQUENCES = _tags((0x28, 0x3000), (0x28, 0x3010), (0x28, 0x3006), (0x7FE0, 0x10), (0xFFFE, 0xE000), (2, 0))
_MARKERS = (
    *(b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7", b"\xff\xc4", b"\xff\xdb", b"\xff\xda"),
    *(b"\xff\x51", b"\xff\x52", b"\xff\x5c", b"\xff\x90"),
)
_ODD_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 128, 255, 256),
    *(4096, 5791, 8192, 32767, 32768, 65534, 65535),
)
_ODD_TEXTS = (
    *(b"0", b"-1", b"1e39", b"1e-300", b"NaN", b"inf", b"1A", b"99999999999", b"\\", b"1\\0", b"1\\3", b""),
    *(b"MONOCHROME1", b"RGB", b"YBR_FULL", b"SIGMOID", b"LINEAR_EXACT", b"\xff\xfe\x00", b"ISO 2022 IR 87"),
)
_ODD_LENGTHS = (0, 1, 2, 3, 7, 255, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def _region(content: bytearray, draw: np.random.Generator) -> tuple[int, int]:
    """All of it, or the part that decides most: the header's end, or the first bytes of the pixels."""
    pixels = content.rfind(_PIXEL_DATA)
    regions = [(0, len(content)), (max(pixels - 400, 0), pixels), (pixels, min(pixels + 700, len(content)))]
    low, high = regions[draw.integers(3)] if pixels > 0 else regions[0]
    return (low, high) if low < high else regions[0]


def _range(content: bytearray, draw: np.random.Generator) -> tuple[int, int]:
    low, high = _region(content, draw)
    start = int(draw.integers(low, high))
    return start, min(start + int(2 ** draw.uniform(0, 12)), len(content))


def _find(content: bytearray, wanted: tuple[bytes, ...], draw: np.random.Generator) -> int | None:
    """A place of a wanted sequence that leaves room behind it, or None."""
    present = [
        place
        for sequence in wanted
        for place in (content.find(sequence), content.rfind(sequence))
        if 0 <= place < len(content) - 48
    ]
    return int(draw.choice(present)) if present else None


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, overwrite_a_range, delete_a_range, repeat_a_range, truncate),
    *(lie_in_a_number, lie_in_a_number, lie_in_a_number, lie_in_a_text, lie_in_a_length),
    *(lie_in_the_transfer_syntax, lie_in_the_code_stream, lie_in_the_code_stream),
)


def mutant(number: int, seeds: list[Path]) -> tuple[str, bytes]:
    """What it was made of, and its bytes."""
    draw = np.random.default_rng([_DRAW, number])
    seed = seeds[draw.integers(len(seeds))]
    content = bytearray(seed.read_bytes())
    applied = [MUTATIONS[index] for index in draw.integers(len(MUTATIONS), size=draw.integers(1, 4))]
    for mutation in applied:
        if content:
            mutation(content, draw)
    return f"{seed.stem}: {', '.join(mutation.__name__ for mutation in applied)}", bytes(content)


# The child process that judges them


def judge(folder: Path, first: int, last: int) -> None:
    """Print a line before each mutant and its outcome behind: a line without one is a mutant that ended the process."""
    seeds = sorted(folder.iterdir())
    decode_film(seeds[0].read_bytes())  # what is loaded at first use is not counted as a mutant's memory
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, last):
        made_of, content = mutant(number, seeds)
        print(number, made_of, end="\t", flush=True)  # noqa: T201
        before = _reset_peak()
        started = time.monotonic()
        signal.alarm(SECONDS_A_MUTANT)  # ends the process, in native code too: Python handles no SIGALRM
        outcome = judged(content)
        signal.alarm(0)
        seconds = time.monotonic() - started
        print(outcome, f"{seconds:.3f}", _memory("VmHWM") - before, sep="\t", flush=True)  # noqa: T201


def _reset_peak() -> int:
    """Forget the most memory that the process has had so far (proc(5), clear_refs) and return what it has, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) // 1024


def judged(content: bytes) -> str:
    """ "film", a reason code, or what is wrong behind an exclamation mark."""
    try:
        film = decode_film(content)
    except FilmSetAside as verdict:
        return verdict.reason.value
    except BaseException as error:
        return f"!{type(error).__name__}"
    pixels = film.pixels
    if pixels.dtype != np.float32 or pixels.ndim != 2 or not 0 < pixels.size <= MAX_PIXELS:
        return "!shape"
    return "film" if np.isfinite(pixels).all() and 0 <= pixels.min() <= pixels.max() <= 1 else "!values"


# The parent


@dataclass
class Findings:
    """What came of the mutants: outcomes, those that broke the promise, the slowest (s), the largest (MiB)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    peak: tuple[int, str] = (0, "")

    def add(self, line: str) -> None:
        made_of, outcome, seconds, peak = line.split("\t")
        self.outcomes[outcome] += 1
        if outcome.startswith("!"):
            self.failed.append(f"{made_of}: {outcome}")
        self.slowest = max(self.slowest, (float(seconds), made_of))
        self.peak = max(self.peak, (int(peak), made_of))


def judged_by_children(folder: Path, count: int) -> Findings:
    """Judge mutants 0 to count - 1; a child that dies costs one mutant, and the next one goes on behind it."""
    findings = Findings()
    first = 0
    while first < count:
        child = subprocess.run(
            [sys.executable, __file__, str(folder), str(first), str(count)],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        lines = child.stdout.splitlines()
        assert lines, (
            f"expected a child that judges from mutant {first}, got one that ended with {child.returncode}"
        )
        done = [line for line in lines if line.count("\t") == 3]
        for line in done:
            findings.add(line)
        if len(done) < len(lines):
            how = "hung" if child.returncode == -signal.SIGALRM else f"ended with {child.returncode}"
            findings.outcomes["!hung" if how == "hung" else "!crashed"] += 1
            findings.failed.append(f"{lines[-1].strip()}: {how}")
        first += len(lines)
    return findings


def compressed(grey: np.ndarray) -> Iterator[tuple[UID, np.ndarray, bytes | bytearray]]:
    """Transfer syntax, stored values and one frame of them."""
    import imagecodecs

    eight = (grey // 16).astype(np.uint8)
    for kind, syntax in (("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)):
        frame = io.BytesIO()
        Image.fromarray(eight).save(frame, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        yield syntax, eight, frame.getvalue()
    wrapped = io.BytesIO()
    Image.fromarray(eight).save(wrapped, "JPEG2000")
    yield JPEG2000Lossless, eight, wrapped.getvalue()
    yield JPEG2000Lossless, grey, imagecodecs.jpeg2k_encode(grey, codecformat="j2k", reversible=True)
    yield JPEGLSLossless, grey, imagecodecs.jpegls_encode(grey)
    yield JPEGLSLossless, eight, imagecodecs.jpegls_encode(eight)
    yield JPEGLSNearLossless, grey, imagecodecs.jpegls_encode(grey, level=2)
    yield JPEGLosslessSV1, grey, imagecodecs.ljpeg_encode(grey, bitspersample=12)
    yield JPEGExtended12Bit, grey, imagecodecs.jpeg8_encode(grey, bitspersample=12)


def written(film: Dataset) -> bytes:
    buffer = io.BytesIO()
    film.save_as(buffer)
    return buffer.getvalue()


def own_films(write: Callable[..., bytes], lut: Callable[..., Dataset]) -> Iterator[tuple[str, bytes]]:
    """Films of every kind that can be made here, by name."""
    grey = np.random.default_rng(0).normal(2048, 300, (40, 56)).cumsum(axis=1) % 4096
    grey = grey.astype(np.uint16)
    window = {"BitsStored": 12, "WindowCenter": "2048", "WindowWidth": "4096"}
    for encoding in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
    ):
        yield f"own-{encoding}", write(grey, syntax=encoding, **window)
    swapped = Dataset()  # one that has been read may not be written in the other order of bytes
    swapped.update(pydicom.dcmread(io.BytesIO(write(grey.byteswap(), **window))))
    swapped.file_meta = FileMetaDataset()
    swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    swapped.save_as(buffer, enforce_file_format=True)
    yield "own-big-endian", buffer.getvalue()
    yield "own-eight", write((grey // 16).astype(np.uint8), syntax=RLELossless)
    yield (
        "own-range",
        write(grey, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=7, BitsStored=12),
    )
    spacing: dict[str, Any] = {"PixelSpacing": ["0.3", "0.2"], "NumberOfFrames": "1", "PatientAge": "063Y"}
    rescale = {"RescaleSlope": "2.0", "RescaleIntercept": "-1024", "VOILUTFunction": "SIGMOID"}
    yield "own-signed", write(grey.astype(np.int16) - 2048, **spacing, **rescale, **window)
    tables = {name: [lut(np.arange(0, 4096, 2), 0, 12)] for name in ("VOILUTSequence", "ModalityLUTSequence")}
    yield "own-tables", write(grey, PixelRepresentation=0, BitsStored=12, **tables)
    for index, (syntax, stored, frame) in enumerate(compressed(grey)):
        film = pydicom.dcmread(io.BytesIO(write(stored, **(window if stored.itemsize == 2 else {}))))
        film.file_meta.TransferSyntaxUID = syntax
        film.PixelData = encapsulate([bytes(frame)])
        film["PixelData"].VR = "OB"
        yield f"own-{index}-{syntax}", written(film)


def real_films(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The real files as they are and, where they have pixels, called frontal chest films so that they are decoded."""
    for path in sorted(folder.glob("*/*.dcm")):
        content = path.read_bytes()
        if len(content) >= MAX_SEED_BYTES:
            continue
        yield f"real-{path.stem}", content
        with (
            warnings.catch_warnings(),
            suppress(Exception),
        ):  # some cannot be read, and some not written again
            warnings.simplefilter("ignore")
            film = pydicom.dcmread(io.BytesIO(content), force=True)
            if "PixelData" in film:
                film.Modality, film.BodyPartExamined, film.ViewPosition = "CR", "CHEST", "PA"
                for keyword in ("PatientBreedDescription", "PatientSpeciesDescription", "SeriesDescription"):
                    if keyword in film:
                        delattr(film, keyword)
                yield f"called-chest-{path.stem}", written(film)


def check(folder: Path, films: Iterator[tuple[str, bytes]], capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in films:
        (folder / f"{name}.dcm").write_bytes(content)
    findings = judged_by_children(folder, MUTANTS)
    with capsys.disabled():
        if "ACM_FED_FUZZ" in os.environ:
            print(f"\n{len(list(folder.iterdir()))} seeds, {dict(findings.outcomes.most_common())}")  # noqa: T201
            print(f"slowest {findings.slowest}, MiB beyond the start {findings.peak}")  # noqa: T201
    assert sum(findings.outcomes.values()) == MUTANTS
    assert findings.outcomes["film"] > MUTANTS // 50  # mutations so mild that a decoder has something to do
    assert findings.failed == [], "\n".join(findings.failed)


@pytest.mark.timeout(3600)
def test_mutants_of_own_films(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dicom: Callable[..., bytes],
    lut: Callable[..., Dataset],
) -> None:
    check(tmp_path, own_films(dicom, lut), capsys)


@pytest.mark.timeout(3600)
def test_mutants_of_real_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], real: Path) -> None:
    check(tmp_path, real_films(real / "dicom"), capsys)


def test_the_seeds_are_films(dicom: Callable[..., bytes], lut: Callable[..., Dataset]) -> None:
    films = dict(own_films(dicom, lut))
    assert {name: judged(content) for name, content in films.items()} == dict.fromkeys(films, "film")


if __name__ == "__main__":
    judge(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
