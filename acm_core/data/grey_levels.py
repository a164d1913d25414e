"""Stored pixel values to displayed grey: modality LUT, VOI LUT, photometric inversion (DICOM PS3.3 C.11, C.7.6.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from acm_core.data.header import header_numbers
from acm_core.data.shutter import hidden_pixels, presentation_value

RANGE_PERCENTILES = (0.5, 99.5)
_USED_RANGE = 0.5
_BLOCK_PIXELS = 2**16


def displayed_grey(stored: NDArray[np.generic], header: Dataset) -> NDArray[np.float32]:
    """Grey levels float32 H×W in [0, 1] of stored values H×W, dense tissue bright.

    In the standard's order: modality LUT or rescale (C.11.1), then VOI LUT, else window (C.11.2), else the range of the
    stored bits or of the pixels, then inversion of MONOCHROME1 (C.7.6.3.1.2). Padding pixels (C.7.5.1.1.2) do not count
    for that range and come out black; nor do pixels behind a display shutter (C.7.6.11), which come out in its grey.
    All of it happens to the stored values that there are, not to the pixels: a film has some thousand of the one and
    millions of the other.
    """
    levels = _Levels(stored)
    padding = _padding(levels.values, header)
    hidden = hidden_pixels(header, stored.shape)
    values = _modality_values(levels.values, header)
    grey = _values_of_interest(values, header)
    if grey is None:
        grey = _without_voi(values, np.where(padding, 0, levels.counts(hidden)), header)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    grey[padding] = 0
    film = levels.shown(grey)
    if hidden is not None:
        film[hidden] = presentation_value(header)
    return film


def scaled_by_range(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Grey levels float32 H×W in [0, 1] of values that nothing is known of: see `_scale_to_range`."""
    levels = _Levels(stored)
    return levels.shown(_scale_to_range(levels.values.astype(np.float32), levels.counts()))


class _Levels:
    """The values that stand in H×W pixels.

    Attributes:
        values: L different ones; of whole numbers of 16 bits or fewer also some that no pixel has.
    """

    def __init__(self, stored: NDArray[np.generic]) -> None:
        if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
            unsigned = np.dtype(f"u{stored.dtype.itemsize}")
            self._places: NDArray[Any] = stored.astype(unsigned, copy=False)
            count = int(self._places.max(initial=0)) + 1
            self.values: NDArray[np.generic] = np.arange(count).astype(unsigned).astype(stored.dtype)
        else:
            self.values, places = np.unique(stored, return_inverse=True)
            self._places = places.reshape(stored.shape)

    def counts(self, hidden: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """L, pixels of each value, without those that are hidden."""
        counts = np.zeros(len(self.values), np.int64)
        for block in self._blocks():
            places = self._places[block]
            seen = places.ravel() if hidden is None else places[~hidden[block]]
            counts += np.bincount(seen, minlength=len(counts))
        return counts

    def shown(self, grey: NDArray[np.float32]) -> NDArray[np.float32]:
        """H×W: each pixel's entry of `grey` (L)."""
        film = np.empty(self._places.shape, np.float32)
        for block in self._blocks():
            np.take(grey, self._places[block], out=film[block], mode="wrap")  # no bounds to check, no copy
        return film

    def _blocks(self) -> Iterator[slice]:
        """Some rows at a time: numpy makes 64-bit indices of them, which so stay in the processor's cache."""
        rows, columns = self._places.shape
        step = max(1, _BLOCK_PIXELS // max(1, columns))
        return (slice(start, start + step) for start in range(0, rows, step))


def _scale_to_range(values: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scale so that the 0.5th and 99.5th percentile of the pixels become 0 and 1; clip beyond.

    Percentiles, not extremes: one dead pixel, a lead marker or burnt-in text would otherwise decide the contrast of
    the whole film. Where the percentiles coincide (a small object on an even ground) the extremes serve.

    Args:
        values: L.
        counts: L, pixels of each value that count.
    """
    counted = counts > 0
    if not counted.any():
        return np.zeros_like(values)
    low, high = _percentiles(values[counted], counts[counted])
    if low == high:
        low, high = float(values[counted].min()), float(values[counted].max())
    if low == high:
        return np.zeros_like(values)
    scaled = (values - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def _percentiles(values: NDArray[np.float32], counts: NDArray[np.int64]) -> list[float]:
    """`numpy.percentile` of the pixels at `RANGE_PERCENTILES`, from how many there are of each value."""
    order = np.argsort(values, kind="stable")
    reached = counts[order].cumsum()
    found = []
    for percentile in RANGE_PERCENTILES:
        place = percentile / 100 * (int(reached[-1]) - 1)
        below, above = (
            values[order[np.searchsorted(reached, int(step), side="right")]]
            for step in (place, np.ceil(place))
        )
        found.append(float(below) + (float(above) - float(below)) * (place % 1))
    return found


def _padding(stored: NDArray[np.generic], header: Dataset) -> NDArray[np.bool_]:
    """Pixel Padding Value, or the range from it to the Range Limit, in stored values."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = header.get("PixelPaddingRangeLimit")
    # Written with the wrong sign as often as not: reduce both to the stored bits, as the decoder reduces the pixels.
    bounds = np.array([value, value if limit is None else limit], dtype=np.int64).astype(stored.dtype)
    unused = 8 * stored.dtype.itemsize - int(header.BitsStored)
    low, high = sorted((bounds << unused >> unused).tolist())
    return np.asarray((stored >= low) & (stored <= high))


def _modality_values(stored: NDArray[np.generic], header: Dataset) -> NDArray[np.float32]:
    sequence = header.get("ModalityLUTSequence")
    if sequence:
        return _LookupTable(sequence[0], header).apply(stored.astype(np.float32))
    values = stored.astype(np.float32)
    for slope in header_numbers(header, "RescaleSlope")[:1]:
        values *= np.float32(slope)
    for intercept in header_numbers(header, "RescaleIntercept")[:1]:
        values += np.float32(intercept)
    return values


def _values_of_interest(values: NDArray[np.float32], header: Dataset) -> NDArray[np.float32] | None:
    """The first VOI LUT, else the first window; several are alternatives for the reader (C.11.2.1.2), not a chain."""
    sequence = header.get("VOILUTSequence")
    if sequence:
        table = _LookupTable(sequence[0], header)
        shown: NDArray[np.float32] = np.clip(table.apply(values) / np.float32(table.white), 0, 1)
        return shown
    centre = _first_number(header, "WindowCenter")
    width = _first_number(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    # Empty, zero and unknown entries are common in exports and say nothing: such a film counts as one without VOI.
    if centre is not None and width is not None:
        if function == "LINEAR" and width >= 1:
            return _linear(values, centre - 0.5, width - 1)
        if function == "LINEAR_EXACT" and width > 0:
            return _linear(values, centre, width)
        if function == "SIGMOID" and width > 0:
            # 1 / (1 + exp(-4 (x - c) / w)) of C.11.2.1.3.1, written so that it cannot overflow.
            curve: NDArray[np.float32] = (
                1 + np.tanh((values - np.float32(centre)) * np.float32(2 / width))
            ) / 2
            return curve
    return None


def _without_voi(
    values: NDArray[np.float32], counts: NDArray[np.int64], header: Dataset
) -> NDArray[np.float32]:
    """The identity (C.11.2.1.2): the range of the stored bits from black to white, as viewers show it.

    A film that leaves more than half of that range unused would come out flat; it is scaled by the range of its pixels.
    """
    counted = counts > 0
    if header.get("ModalityLUTSequence") or values.size == 0 or not counted.any():
        return _scale_to_range(values, counts)
    bits, signed = int(header.BitsStored), header.get("PixelRepresentation") == 1
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.float64)
    low, high = sorted(_modality_values(ends, header).tolist())
    first, last = _percentiles(values[counted], counts[counted])
    if not last - first > _USED_RANGE * (high - low):
        return _scale_to_range(values, counts)
    return _linear(values, (low + high) / 2, high - low)


def _linear(values: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """Ramp of C.11.2.1.2.1 and C.11.2.1.3.2 from 0 at centre - width/2 to 1 at centre + width/2; width 0 is a step."""
    if width == 0:
        return (values > centre).astype(np.float32)
    ramp = (values - np.float32(centre)) / np.float32(width) + np.float32(0.5)
    return np.clip(ramp, 0, 1, out=ramp)


def _first_number(header: Dataset, keyword: str) -> float | None:
    numbers = header_numbers(header, keyword)
    return numbers[0] if numbers and np.isfinite(numbers[0]) else None


class _LookupTable:
    """A Modality or VOI LUT item (C.11.1.1, C.11.2.1.1). `white` is the value that a VOI LUT shows white.

    pydicom's own functions index an 8-bit table modulo 256 and subtract in the pixels' type; hence this one.
    """

    def __init__(self, item: Dataset, header: Dataset) -> None:
        entries, first, bits = (int(number) for number in item.LUTDescriptor)
        if not 0 <= bits <= 16:
            raise ValueError("expected a LUT of 8 to 16 bits")
        entries = (entries & 0xFFFF) or 2**16
        # The first mapped value has the pixels' sign (C.11.1.1), which the element's VR does not always follow.
        if first >= 2**15 and header.get("PixelRepresentation") == 1:
            first -= 2**16
        self.first = first
        self.table = _table(item["LUTData"].value, entries, header)
        largest = float(self.table.max())
        # The descriptor's bits say what white is (C.11.2.1.1), unless the table leaves the highest of them unused or
        # has values beyond: then they were not written for this table, and its largest value is white.
        declared = 2**bits - 1
        self.white = declared if declared // 2 < largest <= declared else max(largest, 1.0)

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values before the first mapped one take the first entry, values after the last one the last."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.table[np.clip(index, 0, len(self.table) - 1)]


def _table(data: bytes | Sequence[int], entries: int, header: Dataset) -> NDArray[np.float32]:
    order = "<" if header.original_encoding[1] is not False else ">"
    if not isinstance(data, bytes):
        data = (np.array(data, dtype=np.int64) & 0xFFFF).astype(f"{order}u2").tobytes()
    # 8-bit entries come packed, one a byte, or one a 16-bit word.
    packed = len(data) < 2 * entries
    table = np.frombuffer(data, dtype=np.dtype("u1" if packed else f"{order}u2"))
    if len(table) < entries:
        raise ValueError("expected as many LUT entries as the descriptor says")
    return table[:entries].astype(np.float32)
