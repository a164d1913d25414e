"""A signature is for one statement of one kind, by one key, and for nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from acm_core.federated.envelope import ReplyEnvelope
from acm_core.federated.messages import Refusal
from acm_core.trust.signatures import (
    OFFSET_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    is_signed,
    is_signed_call,
    is_signed_reply,
    sign,
    sign_call,
    sign_reply,
)

KEY, OTHER = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
LINES = st.lists(
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), min_size=1, max_size=4
)


@given(LINES, LINES)
def test_a_signature_is_of_its_texts_and_of_no_others(texts: list[str], others: list[str]) -> None:
    signature = sign(KEY, *texts)
    assert is_signed(KEY.public_key(), signature, *texts)
    assert not is_signed(OTHER.public_key(), signature, *texts)
    assert is_signed(KEY.public_key(), signature, *others) == (texts == others)


@given(st.text(), LINES)
def test_what_is_no_signature_is_none(signature: str, texts: list[str]) -> None:
    assert not is_signed(KEY.public_key(), signature, *texts)


def test_a_line_end_cannot_make_one_statement_of_two() -> None:
    with pytest.raises(ValueError, match="without line ends"):
        sign(KEY, "a\nb")
    assert not is_signed(KEY.public_key(), sign(KEY, "a", "b"), "a\nb")


def test_a_reply_is_signed_with_all_that_it_says() -> None:
    reply = sign_reply(KEY, "task", ReplyEnvelope(payload="0" * 64, bytes=10, audit="f" * 64))
    public = KEY.public_key()
    assert is_signed_reply(public, "task", reply)
    assert not is_signed_reply(public, "other", reply)
    others = {"payload": "1" * 64, "bytes": 11, "refusal": Refusal.POLICY, "audit": ""}
    assert others.keys() == ReplyEnvelope.model_fields.keys() - {"signature"}
    for name, other in others.items():
        assert not is_signed_reply(public, "task", reply.model_copy(update={name: other}))


def test_a_call_is_not_a_reply() -> None:
    headers = sign_call(KEY, "A", "GET", "/x", 7)
    said = (headers[SIGNATURE_HEADER], "A", "GET", "/x", headers[TIME_HEADER])
    assert is_signed_call(KEY.public_key(), *said, headers[OFFSET_HEADER])
    assert not is_signed_call(KEY.public_key(), *said, "8")
    reply = ReplyEnvelope.model_construct(
        payload="GET", bytes=7, audit="/x", signature=headers[SIGNATURE_HEADER]
    )
    assert not is_signed_reply(KEY.public_key(), "A", reply)
