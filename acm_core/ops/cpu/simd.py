"""Vectors of 16 float32 lanes inside numba kernels, as explicit LLVM vectors.

LLVM splits them into what the processor has (two AVX2, four NEON registers), so nothing is compiled at the hospital
but by numba itself. Arrays are one-dimensional: float32, or int16 holding bfloat16 bits, which `load` widens and
`store` rounds to nearest even. Indices are in elements; nothing is bounds-checked.

`lanes` (2, 4, 8 or 16, known when a kernel is compiled) is the number of neighbouring lanes that belong to one group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import register_model
from numba.np.arrayobj import make_array, populate_array

LANES = 16
# What kernels compute with: a bare 1.0 would make a float64 of a float32.
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
LOWEST = np.float32(-1e30)  # below every score
LN_2, LOG2_E = np.float32(0.6931471805599453), np.float32(1.4426950408889634)

intrinsic: Any = _numba_intrinsic  # its own annotation lacks the arguments that kernels leave out

_F32 = ir.FloatType()
_I16 = ir.IntType(16)
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, LANES)
_NARROW = ir.VectorType(_I16, LANES)
_INTEGERS = ir.VectorType(_I32, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
# Sums may be regrouped and products fused; NaN and infinity keep their meaning.
FAST = ("reassoc", "contract", "nsz", "arcp")
# 2^f on [-1/2, 1/2]: the terms (ln 2)^k / k!, highest first; their remainder is 1.2e-7.
_EXP2 = (1.5403530393381608e-4, 1.3333558146428443e-3, 9.618129107628477e-3, 5.550410866482158e-2,
         2.4022650695910072e-1, 6.931471805599453e-1, 1.0)  # fmt: skip


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, front_end_type: Any) -> None:
        super().__init__(manager, front_end_type, _VECTOR)


vector = _Vector()


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [value] * LANES)


def _call(builder: Any, name: str, result: Any, *arguments: Any, flags: tuple[str, ...] = ()) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=flags)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "llvm.fmuladd.v16f32", _VECTOR, a, b, c)


def _splat(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return _shuffle(builder, first, [0] * LANES)


def _shuffle(builder: Any, value: Any, lanes: list[int]) -> Any:
    chosen = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), chosen)


def _first(builder: Any, count: Any) -> Any:
    """The mask of lanes below `count` (int64; more than all lanes is all of them)."""
    wanted = builder.trunc(builder.select(
        builder.icmp_signed("<", count, ir.Constant(count.type, LANES)), count, ir.Constant(count.type, LANES)
    ), _I32)  # fmt: skip
    spread = builder.insert_element(ir.Constant(_INTEGERS, ir.Undefined), wanted, ir.Constant(_I32, 0))
    spread = _shuffle(builder, spread, [0] * LANES)
    return builder.icmp_signed("<", ir.Constant(_INTEGERS, list(range(LANES))), spread)


def _address(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    """Where `kind` lies: the array and the index are the first two arguments of every load and store."""
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), kind.as_pointer())


def _widen(builder: Any, raw: Any) -> Any:
    bits = builder.shl(builder.zext(raw, _INTEGERS), ir.Constant(_INTEGERS, [16] * LANES))
    return builder.bitcast(bits, _VECTOR)


def _narrow(builder: Any, value: Any) -> Any:
    """bfloat16 bits, rounded to nearest even; NaN stays NaN."""

    def same(number: int) -> Any:
        return ir.Constant(_INTEGERS, [number] * LANES)

    bits = builder.bitcast(value, _INTEGERS)
    odd = builder.and_(builder.lshr(bits, same(16)), same(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, same(0x7FFF))), same(16))
    unordered = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(unordered, same(0x7FC0), rounded)
    return builder.trunc(rounded, _NARROW)


def _is_bfloat16(array_type: Any) -> bool:
    return bool(array_type.dtype == types.int16)


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    """The float32 in every lane."""
    return vector(types.float32), lambda _context, builder, _signature, args: _splat(builder, args[0])


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """array[index], float32, in every lane; unlike numba's own indexing it does not ask whether index is negative."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, builder.load(_address(context, builder, signature, args, _F32)))

    return vector(array, types.int64), generate


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Lanes from array[index:index + 16]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _is_bfloat16(signature.args[0]):
            return _widen(
                builder, builder.load(_address(context, builder, signature, args, _NARROW), align=2)
            )
        return builder.load(_address(context, builder, signature, args, _VECTOR), align=4)

    return vector(array, types.int64), generate


@intrinsic
def load_first(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """The first `count` lanes from array[index:], 0 in the others; their memory is not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = _first(builder, args[2])
        narrow = _is_bfloat16(signature.args[0])
        kind = _NARROW if narrow else _VECTOR
        address = _address(context, builder, signature, args, kind)
        name = f"llvm.masked.load.v16{'i16' if narrow else 'f32'}.p0"
        align = ir.Constant(_I32, 2 if narrow else 4)
        zero = ir.Constant(kind, [0 if narrow else 0.0] * LANES)
        value = _call(builder, name, kind, address, align, mask, zero)
        return _widen(builder, value) if narrow else value

    return vector(array, types.int64, types.int64), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index:index + 16] = lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow = _is_bfloat16(signature.args[0])
        value = _narrow(builder, args[2]) if narrow else args[2]
        builder.store(
            value, _address(context, builder, signature, args, value.type), align=2 if narrow else 4
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def store_first(typing: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """The first `count` lanes into array[index:]; the memory of the others is not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = _first(builder, args[2])
        narrow = _is_bfloat16(signature.args[0])
        value = _narrow(builder, args[3]) if narrow else args[3]
        address = _address(context, builder, signature, args, value.type)
        name = f"llvm.masked.store.v16{'i16' if narrow else 'f32'}.p0"
        _call(builder, name, ir.VoidType(), value, address, ir.Constant(_I32, 2 if narrow else 4), mask)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, vector), generate


@intrinsic
def keep_first(typing: Any, value: Any, count: Any, other: Any) -> Any:
    """`value` in the first `count` lanes, the float32 `other` in the rest."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(_first(builder, args[1]), args[0], _splat(builder, args[2]))

    return vector(vector, types.int64, types.float32), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c."""
    return vector(vector, vector, vector), lambda _c, builder, _s, args: _fma(builder, *args)


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return vector(vector, vector), lambda _c, builder, _s, args: builder.fadd(*args, flags=FAST)


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a − b."""
    return vector(vector, vector), lambda _c, builder, _s, args: builder.fsub(*args, flags=FAST)


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """a·b."""
    return vector(vector, vector), lambda _c, builder, _s, args: builder.fmul(*args, flags=FAST)


@intrinsic
def divide(typing: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return vector(vector, vector), lambda _c, builder, _s, args: builder.fdiv(*args, flags=FAST)


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger in each lane; a NaN in `b` is passed over."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[1], args[0]), args[1], args[0])

    return vector(vector, vector), generate


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """The sum of all lanes, float32."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        zero = ir.Constant(_F32, 0.0)
        return _call(builder, "llvm.vector.reduce.fadd.v16f32", _F32, zero, args[0], flags=FAST)

    return types.float32(vector), generate


@intrinsic
def largest(typing: Any, value: Any) -> Any:
    """The largest lane, float32; NaN lanes are passed over."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.vector.reduce.fmax.v16f32", _F32, args[0])

    return types.float32(vector), generate


@intrinsic
def exp2(typing: Any, value: Any) -> Any:
    """2^x to 2e-7 for −126 ≤ x ≤ 126; beyond, the value at the bound. NaN stays NaN."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        x = args[0]
        for sign, bound in (("<", -126.0), (">", 126.0)):
            x = builder.select(builder.fcmp_ordered(sign, x, _constant(bound)), _constant(bound), x)
        whole = _call(builder, "llvm.rint.v16f32", _VECTOR, x)
        rest = builder.fsub(x, whole)
        power = _constant(_EXP2[0])
        for coefficient in _EXP2[1:]:
            power = _fma(builder, power, rest, _constant(coefficient))
        biased = builder.add(builder.fptosi(whole, _INTEGERS), ir.Constant(_INTEGERS, [127] * LANES))
        scale = builder.bitcast(builder.shl(biased, ir.Constant(_INTEGERS, [23] * LANES)), _VECTOR)
        return builder.fmul(power, scale)

    return vector(vector), generate


@intrinsic(prefer_literal=True)
def store_group_totals(typing: Any, array: Any, index: Any, value: Any, lanes: Any) -> Any:
    """array[index + i] = the sum over the i-th group's lanes, for the 16 / lanes groups; float32."""
    width = lanes.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, step = args[2], 1
        while step < width:
            value = builder.fadd(value, _shuffle(builder, value, [lane ^ step for lane in range(LANES)]))
            step *= 2
        if width == LANES:
            totals = builder.extract_element(value, ir.Constant(_I32, 0))
        else:
            totals = _shuffle(builder, value, list(range(0, LANES, width)))
        builder.store(totals, _address(context, builder, signature, args, totals.type), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector, lanes), generate


@intrinsic(prefer_literal=True)
def load_spread(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """array[index + i], float32, in every lane of the i-th group, for the 16 / lanes groups."""
    width = lanes.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _F32 if width == LANES else ir.VectorType(_F32, LANES // width)
        groups = builder.load(_address(context, builder, signature, args, kind), align=4)
        if width == LANES:
            return _splat(builder, groups)
        return _shuffle(builder, groups, [lane // width for lane in range(LANES)])

    return vector(array, types.int64, lanes), generate


@intrinsic
def take(typing: Any, numbers: Any, count: Any) -> Any:
    """numbers[0], int64, before `count` is added to it, at one stroke among threads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return types.int64(numbers, types.int64), generate


@intrinsic(prefer_literal=True)
def elements(typing: Any, numbers: Any, place: Any, narrow: Any) -> Any:
    """The array whose address and length stand at numbers[place]: int16 (bfloat16 bits) if `narrow`, else float32."""
    kind = types.int16 if narrow.literal_value else types.float32
    result = types.Array(kind, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        address, length = (
            builder.load(builder.gep(data, [ir.Constant(ir.IntType(64), place.literal_value + i)]))
            for i in (0, 1)
        )
        array = make_array(result)(context, builder)
        size = ir.Constant(ir.IntType(64), 2 if narrow.literal_value else 4)
        pointer = builder.inttoptr(address, array.data.type)
        populate_array(array, data=pointer, shape=[length], strides=[size], itemsize=size, meminfo=None)
        return array._getvalue()

    return result(numbers, place, narrow), generate
