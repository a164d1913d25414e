"""Masks: known answers of their parts, and that they say nothing of what is under them."""

from __future__ import annotations

import hashlib
import hmac
import json

import numpy as np
import pytest
import written_round
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.secure_aggregation.masks import Mask, Vector, add_masks, derive
from acm_core.secure_aggregation.round_secrets import RoundSecrets


def stream(key: bytes, low: int, high: int) -> bytes:
    vector = Vector.zeros(low, high)
    add_masks(vector, [Mask(key)])
    return vector.low.astype("<u4").tobytes() + vector.high.astype("<u8").tobytes()


def test_the_stream_is_aes_256_in_counter_mode() -> None:
    """NIST's vector for AES-256-ECB (SP 800-38A F.1.5) gives the stream's blocks: E(K, 0), E(K, 1), …"""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 - the block cipher itself
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    assert block.update(plain).hex() == "f3eed1bdb5d2a03c064b5a7e3db181f8"
    expected = b"".join(block.update(number.to_bytes(16, "big")) for number in range(70_000))
    for low, high in ((4, 2), (0, 5), (5, 0), (1, 1), (2**16 + 3, 7), (3, 2**16 + 1), (2**17, 2**15)):
        assert stream(key, low, high) == expected[: 4 * low + 8 * high]


def test_a_key_is_derived_by_hkdf() -> None:
    """RFC 5869, from its text by HMAC; and its first test case, by the same text."""

    def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
        extracted, expanded, last = hmac.digest(salt, secret, "sha256"), b"", b""
        for number in range(1, 9):
            last = hmac.digest(extracted, last + info + bytes([number]), "sha256")
            expanded += last
        return expanded[:length]

    case = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert case.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    text = b"\x00\x04pair\x00\x01A\x00\x02BC"
    assert derive(b"secret" * 6, b"salt" * 8, "pair", "A", "BC") == hkdf(b"secret" * 6, b"salt" * 8, text, 32)
    assert derive(b"s", b"t", "pair", "AB", "C") != derive(b"s", b"t", "pair", "A", "BC")


def test_two_sites_agree_on_a_secret_by_x25519() -> None:
    """RFC 7748 5.2: the result of one iteration and of a thousand, from the point 9."""
    scalar = point = (9).to_bytes(32, "little")
    for number in range(1000):
        private = X25519PrivateKey.from_private_bytes(scalar)
        scalar, point = private.exchange(X25519PublicKey.from_public_bytes(point)), scalar
        if number == 0:
            assert RoundSecrets(point, bytes(32)).public == scalar.hex()
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_a_whole_round_is_the_one_that_was_written_down() -> None:
    """What a site sends, byte for byte: sites of two releases that differ here would sum noise."""
    assert written_round.round_() == json.loads(written_round.FILE.read_text(encoding="utf-8"))


def test_the_written_round_is_what_the_text_says() -> None:
    """The same vector from the parts' own definitions, without the package's masks and keys."""
    written = json.loads(written_round.FILE.read_text(encoding="utf-8"))
    sums, site = written_round.promises(), written_round.SITES[1]
    digest = hashlib.sha256()
    for promise in sums.promises:
        fields = json.loads(promise.model_dump_json())
        names = (
            "config",
            "federation",
            "films",
            "key",
            "labels",
            "losses",
            "model",
            "roster",
            "round",
            "run",
        )
        content = "\n".join([fields["protocol"], *(str(fields[name]) for name in names), fields["site"]])
        digest.update(len(content).to_bytes(4, "big") + content.encode())
    assert written["transcript"] == digest.hexdigest()

    def key(secret: bytes, *info: str) -> bytes:
        text = b"".join(len(part).to_bytes(2, "big") + part.encode() for part in info)
        extracted = hmac.digest(digest.digest(), secret, "sha256")
        return hmac.digest(extracted, text + b"\x01", "sha256")

    def pair(other: int) -> bytes:
        public = X25519PublicKey.from_public_bytes(bytes.fromhex(sums.promises[other].key))
        secret = X25519PrivateKey.from_private_bytes(written_round.SECRETS[site].private).exchange(public)
        return key(secret, "pair", *sorted((site, written_round.SITES[other])))

    vector = written_round.layout(sums).encode(written_round.update(site))
    masks = [(1, key(written_round.SECRETS[site].root, "own")), (-1, pair(0)), (1, pair(2))]
    assert written["opening"] == masks[0][1].hex()
    cut = vector.low.nbytes
    for sign, secret in masks:
        drawn = stream(secret, vector.low.size, vector.high.size)
        vector.low[:] += np.frombuffer(drawn[:cut], "<u4") * np.uint32(sign % 2**32)
        vector.high[:] += np.frombuffer(drawn[cut:], "<u8") * np.uint64(sign % 2**64)
    assert written["low"] == vector.low.tolist()
    assert written["high"] == vector.high.tolist()


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_mask_that_is_added_and_taken_off_leaves_nothing(size: int) -> None:
    vector = Vector.zeros(size, size + 1)
    masks = [Mask(bytes([number]) * 32) for number in range(3)]
    add_masks(vector, masks)
    assert vector.high.any()
    add_masks(vector, [Mask(mask.key, subtracted=True) for mask in masks])
    assert not vector.low.any()
    assert not vector.high.any()


@given(
    data=st.data(), sizes=st.tuples(st.integers(0, 40), st.integers(1, 40)), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=50, deadline=None)
def test_masks_are_added_in_any_order(data: st.DataObject, sizes: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = [Mask(random.bytes(32), bool(random.integers(2))) for _ in range(5)]
    order = data.draw(st.permutations(masks))
    one, other = Vector.zeros(*sizes), Vector.zeros(*sizes)
    add_masks(one, masks)
    for mask in order:
        add_masks(other, [mask])
    assert (one.low.tolist(), one.high.tolist()) == (other.low.tolist(), other.high.tolist())


def test_no_secret_is_shown() -> None:
    secrets = RoundSecrets(b"p" * 32, b"r" * 32)
    assert repr(secrets) == "RoundSecrets()"
    assert "kkk" not in repr(Mask(b"k" * 32))
    assert RoundSecrets.draw() != RoundSecrets.draw()
