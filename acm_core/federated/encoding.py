"""A model as the difference to a model that both sides have: exact, or in a half or a quarter of the bytes.

float32 matrices and convolution kernels (two axes or more) are what a message weighs. Each output channel of
their difference is scaled by a power of two and rounded to float16 (11 significant bits) or int8 (7 bits and the
sign). What int8 rounds away is returned as a residual and goes into the next difference: error feedback (Seide
et al., Interspeech 2014; Karimireddy et al., ICML 2019), without which a coarse step loses small changes for ever.
Every other array (norms, biases, running statistics, counters) is exact to the bit, and so is everything in
"float32". The bytes of equal significance are laid side by side and compressed with zstd.

The receiver multiplies by a power of two, which is exact, and adds the base, which IEEE 754 rounds in one way: it
computes the bits that the sender foresaw, and the header carries their fingerprint. Nothing that the payload
claims decides what is allocated: names, shapes, dtypes and sizes are those of the receiver's own model.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import zstandard

from acm_core.arrays import Arrays, fingerprint, layout_fingerprint, little_endian

Encoding = Literal["float32", "float16", "int8"]
"""How large arrays travel: exact, or as differences rounded to the type named."""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
_NAME = "encoded"  # of the one array that a payload consists of
_HEADER = struct.Struct("<4sBB32s32s32s")  # magic, version, encoding; SHA-256 of layout, base and result
_MAGIC, _VERSION = b"ACMF", 1
_NO_BASE = bytes(32)
_LEVEL = 1  # higher levels save less than 1 % of a model at a fraction of the speed


class _Steps(NamedTuple):
    """How values are rounded: |value / scale| < 2**top, scale ≥ 2**lowest, so that step · scale is a normal number."""

    dtype: np.dtype[Any]
    top: int
    lowest: int


_STEPS = {"float16": _Steps(np.dtype(np.float16), 15, -102), "int8": _Steps(np.dtype(np.int8), 7, -126)}


class EncodingError(ValueError):
    """A payload that cannot be decoded, or a model that cannot be encoded."""


class LayoutMismatchError(EncodingError):
    """The payload is of a model of other names, shapes or dtypes."""


class BaseMismatchError(EncodingError):
    """The payload is a difference to a model that is not here: the sender has to send whole values."""


@dataclass(frozen=True)
class Encoded:
    """An encoded model.

    Attributes:
        payload: one array of bytes (uint8), to be sent.
        decoded: new arrays, bit for bit what the receiver will have.
        residual: what int8 has rounded away, for the next call; empty for the other encodings.
    """

    payload: Arrays = field(repr=False)
    decoded: Arrays = field(repr=False)
    residual: Arrays = field(repr=False)


def encode(arrays: Arrays, base: Arrays, encoding: Encoding, residual: Arrays | None = None) -> Encoded:
    """Encode `arrays` as the difference to `base`, which the receiver has.

    Args:
        arrays: the model: finite values, the names, shapes and dtypes of the base.
        base: {} for a receiver that has none: whole values are sent then, exact in every encoding.
        encoding: how float32 arrays of two axes or more travel.
        residual: of the last int8 message that was delivered; {} or None before the first.

    Raises:
        EncodingError: the arrays do not fit the base or are not finite, the residual does not fit, or a difference
            is too large for the encoding.
    """
    whole = not base
    if whole:
        encoding, base = "float32", _zeros(arrays)
    residual = residual or {}
    _check_fit(arrays, base)
    _check_residual(residual, base, encoding)
    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj(size=_size(base, encoding))
    frame: list[bytes] = []
    decoded: Arrays = {}
    rest: Arrays = {}
    for name in sorted(base):
        array, start = arrays[name], base[name]
        if not _is_rounded(array, encoding):
            frame.append(compressor.compress(_planes(_bit_difference(array, start))))
            decoded[name] = array.copy()
            continue
        with np.errstate(over="ignore"):
            wanted = array - start
            if name in residual:
                wanted += residual[name]
            _check_finite(name, wanted, f"too large a difference for {encoding}: send float32")
            exponents, steps = _rounded(wanted, encoding)
            decoded[name] = _added(start, exponents, steps)
            _check_finite(name, decoded[name], f"too large a value for {encoding}: send float32")
        frame += [compressor.compress(_planes(exponents)), compressor.compress(_planes(steps))]
        if encoding == "int8":
            rest[name] = array - decoded[name]
            if name in residual:
                rest[name] += residual[name]
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        ENCODINGS.index(encoding),
        bytes.fromhex(layout_fingerprint(base)),
        _NO_BASE if whole else bytes.fromhex(fingerprint(base)),
        bytes.fromhex(fingerprint(decoded)),
    )
    payload = {_NAME: np.frombuffer(b"".join((header, *frame, compressor.flush())), np.uint8)}
    return Encoded(payload, {name: decoded[name] for name in base}, rest)


def decode(payload: Arrays, reference: Arrays) -> Arrays:
    """The model that `encode` was given, rounded as it foresaw: new arrays in the reference's order.

    What a dishonest sender put into them is for `first_fault` to say: they may hold any values.

    Time and memory are bounded by the size of the payload and of the reference, whatever the payload holds.

    Args:
        payload: untrusted.
        reference: the base, or the very model that is sent; any model of the same names, shapes and dtypes where whole
            values are sent.

    Raises:
        LayoutMismatchError: the payload is of a model of other names, shapes or dtypes.
        BaseMismatchError: it is a difference to another model, and not to be `reference` itself.
        EncodingError: it is no payload of this version, or is damaged.
    """
    _check_dtypes(reference)
    content = _content(payload)
    if len(content) < _HEADER.size:
        raise EncodingError(f"expected a header of {_HEADER.size} bytes, got {len(content)}: it is cut off")
    magic, version, code, layout, base, result = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise EncodingError("expected an encoded model, got other bytes")
    if version != _VERSION or code >= len(ENCODINGS):
        raise EncodingError(
            f"expected format {_VERSION} with an encoding below {len(ENCODINGS)}, got format {version} with "
            f"{code}: install the same release on both sides"
        )
    if layout.hex() != layout_fingerprint(reference):
        raise LayoutMismatchError(
            "expected a model of the names, shapes and dtypes here, got another: compare the model section"
        )
    if base == _NO_BASE:
        reference = _zeros(reference)
    elif base.hex() != (here := fingerprint(reference)):
        if result.hex() == here:  # it came before, and the receiver died over its work
            return {name: array.copy() for name, array in reference.items()}
        raise BaseMismatchError(
            f"expected a difference to the model {here[:12]}, got one to {base.hex()[:12]}: ask for whole values"
        )
    decoded = _unpacked(content[_HEADER.size :], reference, ENCODINGS[code])
    if bytes.fromhex(fingerprint(decoded)) != result:
        raise EncodingError("expected the values whose fingerprint the header has, got others: it is damaged")
    return decoded


def is_of(payload: Arrays, reference: Arrays) -> bool:
    """Whether the payload says that it is of a model of the names, shapes and dtypes of `reference`.

    Raises:
        EncodingError: it is no payload of `encode`.
    """
    content = _content(payload)
    if len(content) < _HEADER.size:
        raise EncodingError(f"expected a header of {_HEADER.size} bytes, got {len(content)}: it is cut off")
    return bool(_HEADER.unpack_from(content)[3].hex() == layout_fingerprint(reference))


def _content(payload: Arrays) -> memoryview:
    content = payload.get(_NAME)
    if (
        len(payload) != 1
        or not isinstance(content, np.ndarray)
        or content.dtype != np.uint8
        or content.ndim != 1
    ):
        raise EncodingError(f"expected one array of bytes named {_NAME!r}, got something else")
    return np.ascontiguousarray(content).data


def _unpacked(frame: memoryview, base: Arrays, encoding: Encoding) -> Arrays:
    expected = _size(base, encoding)
    try:
        if (claimed := zstandard.frame_content_size(frame)) != expected:
            raise EncodingError(f"expected {expected} bytes after decompression, got a frame of {claimed}")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EncodingError("expected one whole zstd frame, got one cut off, damaged or padded") from error
    body = np.frombuffer(content, np.uint8)
    at = 0

    def take(dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        nonlocal at
        planes = body[at : at + dtype.itemsize * count].reshape(dtype.itemsize, count)
        at += planes.size
        values = np.stack(tuple(planes), axis=1).view(dtype.newbyteorder("<"))
        return values.reshape(-1).astype(dtype, copy=False)

    decoded: Arrays = {}
    for name in sorted(base):
        start = base[name]
        if _is_rounded(start, encoding):
            exponents = take(np.dtype(np.int8), len(start))
            with np.errstate(over="ignore", invalid="ignore"):
                decoded[name] = _added(start, exponents, take(_STEPS[encoding].dtype, start.size))
        else:
            decoded[name] = _bits_added(start, take(_bits(start).dtype, start.size))
    return {name: decoded[name] for name in base}


def _is_rounded(array: npt.NDArray[Any], encoding: Encoding) -> bool:
    return encoding != "float32" and array.dtype == np.float32 and array.ndim >= 2 and array.size > 0


def _size(arrays: Arrays, encoding: Encoding) -> int:
    """Bytes before compression."""
    return sum(
        len(array) + array.size * _STEPS[encoding].dtype.itemsize
        if _is_rounded(array, encoding)
        else array.nbytes
        for array in arrays.values()
    )


def _rounded(
    wanted: npt.NDArray[np.float32], encoding: Encoding
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """The exponent of each output channel's scale, and the values in units of it."""
    dtype, top, lowest = _STEPS[encoding]
    rows = wanted.reshape(len(wanted), -1)
    exponents = np.maximum(np.frexp(np.abs(rows).max(axis=1))[1] - top, lowest)
    steps = rows * _powers(-exponents)
    if dtype.kind == "i":
        limit = np.iinfo(dtype).max
        np.clip(np.rint(steps, out=steps), -limit, limit, out=steps)
    return exponents.astype(np.int8), steps.astype(dtype)


def _added(
    base: npt.NDArray[np.float32], exponents: npt.NDArray[np.int8], steps: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    difference: npt.NDArray[np.float32] = steps.reshape(len(base), -1) * _powers(exponents)
    difference = difference.reshape(base.shape)
    difference += base
    return difference


def _powers(exponents: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """2 to the power of the exponents, a row each."""
    powers: npt.NDArray[np.float32] = np.ldexp(np.float32(1), exponents.astype(np.int32).reshape(-1, 1))
    return powers


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def _bit_difference(array: npt.NDArray[Any], base: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The difference of the bit patterns as integers, its sign in the lowest bit: near values give small numbers."""
    difference: npt.NDArray[Any] = _bits(array) - _bits(base)
    signs = difference.view(f"i{difference.itemsize}") >> (8 * difference.itemsize - 1)
    difference <<= 1
    difference ^= signs.view(difference.dtype)
    return difference


def _bits_added(base: npt.NDArray[Any], difference: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array of which `_bit_difference` to `base` is `difference`."""
    bits = (difference >> 1) ^ -(difference & 1)
    bits += _bits(base)
    array: npt.NDArray[Any] = bits.view(base.dtype).reshape(base.shape)
    return array


def _planes(values: npt.NDArray[Any]) -> bytes:
    """All lowest bytes, then all second bytes, and so on."""
    return little_endian(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _zeros(arrays: Arrays) -> Arrays:
    return {name: np.zeros(array.shape, array.dtype) for name, array in arrays.items()}


def _check_dtypes(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.itemsize > 8 or not array.dtype.isnative:
            raise EncodingError(
                f"{name}: expected floats or integers of up to 8 bytes, got {array.dtype.str}"
            )


def _check_fit(arrays: Arrays, base: Arrays) -> None:
    _check_dtypes(base)
    if set(arrays) != set(base):
        odd = sorted(set(arrays) ^ set(base))
        raise EncodingError(f"expected the names of the base, got others: {', '.join(odd[:3])}")
    for name, start in base.items():
        array = arrays[name]
        if array.dtype != start.dtype or array.shape != start.shape:
            raise EncodingError(
                f"{name}: expected {start.dtype} {start.shape} as in the base, got {array.dtype} {array.shape}"
            )
        _check_finite(name, array, "NaN or infinite values")


def _check_residual(residual: Arrays, base: Arrays, encoding: Encoding) -> None:
    for name, array in residual.items():
        if encoding != "int8" or name not in base or not _is_rounded(base[name], encoding):
            raise EncodingError(f"{name}: expected a residual for arrays that int8 rounds only")
        if array.dtype != np.float32 or array.shape != base[name].shape:
            raise EncodingError(
                f"{name}: expected a residual of float32 {base[name].shape}, got {array.dtype} {array.shape}"
            )
        _check_finite(name, array, "NaN or infinite values in the residual")


def _check_finite(name: str, array: npt.NDArray[Any], otherwise: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EncodingError(f"{name}: expected finite values, got {otherwise}")
