"""The intake and the epochs after it: files a second against MONAI's transforms, prepared films against memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from acm_core.config.site import SiteConfig
from acm_core.data.batches import training_batches
from acm_core.data.intake.reading import read_file
from acm_core.data.site_films import FilmSet, load_site
from acm_core.data.source.folder import FolderSource
from simulations.benchmark.measurement import (
    Timing,
    machine,
    peak_resident_bytes,
    peak_resident_bytes_of,
    take_turns,
)
from simulations.phantoms import HospitalSpec, write_hospital
from simulations.phantoms.scanner import SCANNERS

IMAGE_SIZE = 224
_FILMS_A_SCANNER = 8
_SIDE = 2048
_FINDINGS = ("Lung Opacity", "Pleural Effusion")
_BATCH = 32
_EPOCH_FILMS = 400
_WORKERS = (0, 1, 2)
_MEBIBYTE = 2**20


def run(rounds: int, files: int) -> dict[str, Any]:
    """Measure on phantoms written to a temporary folder; returns a JSON-ready document, see `table`.

    Args:
        files: of the folder that a whole preflight walks.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {
            "benchmark": "intake",
            "machine": machine(torch.device("cpu")),
            "image_size": IMAGE_SIZE,
            "reading": _reading(Path(folder) / "large", rounds),
            "epochs": _epochs(Path(folder) / "site", rounds),
            "preflight": [
                _preflight(Path(folder) / str(count), count) for count in (max(files // 10, 1), files)
            ],
        }


def table(document: dict[str, Any]) -> str:
    """The document as text."""
    reading, epochs = document["reading"], document["epochs"]
    ours, rival = Timing(tuple(reading["ours"])), Timing(tuple(reading["monai"]))
    ratio, low, high = rival.ratio_to(ours)
    lines = [
        f"{document['machine']['device']}, one thread a process",
        f"reading {reading['films']} phantom films of {_SIDE} pixels, {len(SCANNERS)} scanners, to "
        f"{document['image_size']}², on one core:",
        f"  MONAI LoadImaged + Resized      {reading['films'] / rival.median:8.1f} films/s",
        f"  ours, all gates and statistics  {reading['films'] / ours.median:8.1f} films/s, {ratio:.2f} times "
        f"({low:.2f}–{high:.2f})",
        f"an epoch of {epochs['films']} films with augmentation, in batches of {_BATCH}:",
        f"  tensors in memory               {1e3 * Timing(tuple(epochs['memory'])).median:8.1f} ms",
    ]
    for name, seconds in epochs["prepared"].items():
        share, low, high = Timing(tuple(seconds)).ratio_to(Timing(tuple(epochs["memory"])))
        lines.append(
            f"  prepared films, {name:15} {1e3 * Timing(tuple(seconds)).median:8.1f} ms, {share:.2f} times "
            f"({low:.2f}–{high:.2f})"
        )
    lines.append(f"  first epoch, taken in and read  {1e3 * epochs['first']:8.1f} ms")
    lines.append(
        f"memory that processes hold of their own after an epoch ({epochs['film_bytes'] / _MEBIBYTE:.1f} MiB of films):"
    )
    for name, size in epochs["own_bytes"].items():
        lines.append(f"  {name:30} {size / _MEBIBYTE:8.1f} MiB a worker")
    lines.append("a whole preflight, all cores:")
    for walk in document["preflight"]:
        lines.append(
            f"  {walk['files']:,} files: {walk['seconds']:.1f} s, {walk['files'] / walk['seconds']:.0f} files/s; "
            f"again, unchanged, {walk['again_seconds']:.1f} s; peak memory {walk['peak_bytes'] / _MEBIBYTE:.0f} MiB"
        )
    return "\n".join(lines)


def _reading(folder: Path, rounds: int) -> dict[str, Any]:
    from monai.transforms.compose import Compose
    from monai.transforms.io.dictionary import LoadImaged
    from monai.transforms.spatial.dictionary import Resized
    from monai.transforms.utility.dictionary import EnsureChannelFirstd

    for name in SCANNERS:
        _hospital(folder, name, _FILMS_A_SCANNER, _SIDE)
    paths, source = sorted(folder.rglob("*.dcm")), FolderSource(folder)
    names = [str(path.relative_to(folder)) for path in paths]
    load = Compose(
        [
            LoadImaged("image", reader="PydicomReader"),
            EnsureChannelFirstd("image"),
            Resized("image", (IMAGE_SIZE, IMAGE_SIZE), mode="area"),
        ]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        works: dict[str, Callable[[], object]] = {
            "monai": lambda: [load({"image": path}) for path in paths],
            "ours": lambda: [read_file(source, name, bytes(32), IMAGE_SIZE) for name in names],
        }
        timings = take_turns(works, rounds, warm_up=1)
    finally:
        torch.set_num_threads(threads)
    return {"films": len(paths), **{name: list(timing.seconds) for name, timing in timings.items()}}


def _epochs(folder: Path, rounds: int) -> dict[str, Any]:
    _hospital(folder, "dx_mono2_14bit_window", _EPOCH_FILMS, 256)
    site = _site(folder / "dx_mono2_14bit_window", folder / "state")
    start = time.perf_counter()
    films = load_site(site, _FINDINGS, IMAGE_SIZE).train
    _go_through(training_batches(films, _BATCH, 0, augment=True))
    first = time.perf_counter() - start
    in_memory = replace(films, images=np.asarray(films.images))

    def epoch(chosen: FilmSet, workers: int) -> Callable[[], object]:
        return lambda: _go_through(training_batches(chosen, _BATCH, 0, True, workers))

    works = {
        "memory": epoch(in_memory, 0),
        **{_called(workers): epoch(films, workers) for workers in _WORKERS},
    }
    timings = take_turns(works, rounds, warm_up=1)
    return {
        "films": len(films),
        "film_bytes": np.asarray(films.images).nbytes,
        "first": first,
        "memory": list(timings["memory"].seconds),
        "prepared": {_called(workers): list(timings[_called(workers)].seconds) for workers in _WORKERS},
        "own_bytes": {
            f"{name}, {workers} workers": _own_bytes(chosen, workers)
            for name, chosen in (("tensors in memory", in_memory), ("prepared films", films))
            for workers in (1, 2)
        },
    }


def _go_through(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


def _called(workers: int) -> str:
    return "in the process" if workers == 0 else f"{workers} worker{'s' * (workers > 1)}"


class _Touch(torch.utils.data.Dataset[int]):
    """Reads every film once, and says how much memory the process then has to itself."""

    def __init__(self, films: FilmSet) -> None:
        self._films = films

    def __getitem__(self, _index: int) -> int:
        for row in range(len(self._films)):
            np.asarray(self._films.images[np.array([row])]).sum()
        return _private_bytes()


def _own_bytes(films: FilmSet, workers: int) -> int:
    """Mean over workers, less what a worker without films has; spawned, as CUDA wants them."""
    none = replace(films, images=np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.float16))

    def mean(chosen: FilmSet) -> float:
        loader = DataLoader(
            _Touch(chosen),
            batch_size=None,
            sampler=range(workers),
            num_workers=workers,
            multiprocessing_context="spawn",
        )
        return float(np.mean([int(size) for size in loader]))

    return int(mean(films) - mean(none))


def _private_bytes() -> int:
    """Pages that no other process shares (Linux; elsewhere the peak)."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return peak_resident_bytes()
    lines = rollup.read_text(encoding="ascii").splitlines()
    return 1024 * sum(
        int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))
    )


def _preflight(folder: Path, files: int) -> dict[str, Any]:
    sites = write_many(folder, files)
    (seconds, peak), (again, _) = _walk(sites), _walk(sites)
    return {"files": files, "seconds": seconds, "again_seconds": again, "peak_bytes": peak}


def _walk(sites: Path) -> tuple[float, int]:
    """Seconds of the command, and the most memory that it had (Linux; elsewhere 0), its readers not counted."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(  # noqa: S603  # our own module, never a shell line
        [sys.executable, "-m", "client.preflight", "--site", "A", "--sites", str(sites)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        peak = max(peak, peak_resident_bytes_of(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode not in (0, 1):
        raise RuntimeError(f"expected preflight to end well, got exit code {process.returncode}")
    return seconds, peak


def write_many(folder: Path, files: int) -> Path:
    """Small DICOM films in folders of a thousand, no two alike, with a label file and a site file."""
    import yaml
    from pydicom import dcmread, dcmwrite

    hospital = _hospital(folder / "template", "dx_mono2_14bit_window", 1, 96)
    film = dcmread(next(hospital.rglob("*.dcm")))
    rows, columns = film.Rows, film.Columns
    made = folder / "made.dcm"
    dcmwrite(made, film, enforce_file_format=True)
    content = made.read_bytes()
    head = content[: content.rindex(film.PixelData)]
    films = folder / "films"
    settled = time.time() - 60
    with (folder / "labels.csv").open("w", encoding="utf-8") as labels:
        labels.write("patient_id,image,Lung Opacity\n")
        for number in range(files):
            rng = np.random.default_rng(number)
            coarse = rng.integers(0, 2**14, (12, 10)).astype(np.uint16)
            pixels = np.repeat(np.repeat(coarse, -(-rows // 12), 0), -(-columns // 10), 1)[:rows, :columns]
            path = films / f"{number // 1000:04d}/{number:07d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(head + pixels.astype("<u2").tobytes())
            os.utime(path, (settled, settled))
            labels.write(f"p{number // 2},{path.relative_to(films)},{number % 2}\n")
    sites = folder / "sites"
    sites.mkdir()
    settings = {
        "site": "A",
        "films": str(films),
        "labels": str(folder / "labels.csv"),
        "state": str(folder / "state"),
    }
    (sites / "A.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return sites


def _hospital(folder: Path, scanner: str, patients: int, side: int) -> Path:
    spec = {
        "name": scanner,
        "patients": patients,
        "scanner": scanner,
        "image_size": side,
        "labels": _FINDINGS,
    }
    write_hospital(HospitalSpec.model_validate(spec), folder / scanner, 0)
    return folder / scanner


def _site(films: Path, state: Path) -> SiteConfig:
    return SiteConfig(site="A", films=films, labels=films / "labels.csv", state=state)
