"""The files with which a site joins: what was written comes back, and nothing else is taken."""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime, tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.trust import certificates, keys
from acm_core.trust.enrolment import Answer, EnrolmentError, Request

KEY = ec.generate_private_key(ec.SECP384R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = certificates.make_authority("chest").certificate
REQUEST = Request.signed("A", KEY)
ANSWER = Answer.to(REQUEST, federation="chest", server="fed.example.org:9092", authority=AUTHORITY)
DOCUMENTS: list[Request | Answer] = [REQUEST, ANSWER]
both = pytest.mark.parametrize("document", DOCUMENTS, ids=["request", "answer"])


def written(document: Request | Answer, **changes: Any) -> bytes:
    return json.dumps(json.loads(document.model_dump_json()) | changes).encode()


@both
def test_a_file_comes_back_as_it_was_written(document: Request | Answer, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    document.write(path)
    document.write(path)
    assert type(document).read(path) == document
    assert len(path.read_bytes()) < 2**13


def test_what_a_request_says() -> None:
    assert REQUEST.fingerprint == keys.fingerprint(KEY.public_key())
    assert (REQUEST.site, REQUEST.acm_fed, REQUEST.flwr) == ("A", version("acm-fed"), version("flwr"))
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= Request.signed("A", KEY).time <= datetime.now(UTC)
    private = KEY.private_numbers().private_value
    assert str(private) not in REQUEST.model_dump_json()


def test_a_clock_that_is_years_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reset(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(1970, 1, 1, tzinfo=tz)

    monkeypatch.setattr("acm_core.trust.enrolment.datetime", Reset)
    with pytest.raises(EnrolmentError, match="on this machine's clock, got 1970-01-01: set it"):
        Request.signed("A", KEY)


def test_what_an_answer_says() -> None:
    assert (ANSWER.site, ANSWER.key) == ("A", REQUEST.fingerprint)
    assert ANSWER.authority_fingerprint == certificates.fingerprint(AUTHORITY)


@both
def test_every_changed_byte_is_refused_or_means_the_same(document: Request | Answer) -> None:
    content = document.model_dump_json(indent=2).encode()
    chance = random.Random(0)
    refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= chance.choice((1, 2, 4, 8, 16, 32, 128, 0x20))
        try:
            assert type(document).parse(bytes(changed)) == document
        except EnrolmentError:
            refused += 1
    assert refused > 0.9 * len(content)


@both
@settings(deadline=None)
@given(data=st.data())
def test_cut_swapped_and_inserted_bytes_are_refused_or_mean_the_same(
    document: Request | Answer, data: st.DataObject
) -> None:
    content = document.model_dump_json().encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    changed = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    try:
        assert type(document).parse(changed) == document
    except EnrolmentError as error:
        assert str(error).isprintable()


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode())
)
def test_anything_else_is_refused_in_a_line(content: bytes) -> None:
    for kind in (Request, Answer):
        with pytest.raises(EnrolmentError) as refused:
            kind.parse(content)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 20_000, b"9" * 100_000, b'{"time": 1e999}'])
def test_what_breaks_other_parsers_is_refused(content: bytes) -> None:
    for kind in (Request, Answer):
        with pytest.raises(EnrolmentError):
            kind.parse(content)


def test_a_request_in_the_name_of_anothers_key_is_refused() -> None:
    """Somebody else's public key, with everything else as it should be."""
    own, other = written(Request.signed("A", OTHER)), json.loads(written(REQUEST))
    forged = json.loads(own) | {"public_key": other["public_key"]}
    with pytest.raises(EnrolmentError, match="the signature is not of this key over this request"):
        Request.parse(json.dumps(forged).encode())


def test_a_signature_has_one_text() -> None:
    """Base64 whose last character carries bits that nobody reads."""
    while not (request := Request.signed("A", KEY)).signature.endswith("="):
        continue
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = request.signature.rstrip("=")
    other = bare[:-1] + alphabet[alphabet.index(bare[-1]) ^ 1] + "=" * (len(request.signature) - len(bare))
    assert base64.b64decode(other) == base64.b64decode(request.signature)
    with pytest.raises(EnrolmentError, match="the signature is not as it was written"):
        Request.parse(written(request, signature=other))


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "B"},
        {"time": "2026-01-01T00:00:00Z"},
        {"flwr": "1.41.1"},
        {"signature": ""},
        {"signature": base64.b64encode(b"signature").decode()},
        {"signature": REQUEST.signature + "\n"},
    ],
)
def test_a_request_is_signed_as_a_whole(changes: dict[str, str]) -> None:
    with pytest.raises(EnrolmentError, match="signature"):
        Request.parse(written(REQUEST, **changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"\x1b[2J": 1}, r"\\x1b\[2J: Extra"),
        ({"site": "../A"}, "site: "),
        ({"site": 1}, "site: "),
        ({"format": "acm-fed.enrolment-request/2"}, "format: "),
        ({"time": "2026-01-01T00:00:00"}, "time: .*timezone"),
        ({"time": "0001-01-01T00:00:00+23:59"}, "time: "),
        ({"acm_fed": "0.1\x1b"}, "acm_fed: "),
        ({"public_key": "ssh-ed25519 AAAA"}, "ECDSA public key on P-384"),
    ],
)
def test_every_field_is_of_a_fixed_form(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EnrolmentError, match=text) as refused:
        Request.parse(written(REQUEST, **changes))
    assert str(refused.value).isprintable()


def test_a_changed_answer_is_refused_even_if_its_digest_is_made_to_fit() -> None:
    def sealed(**changes: Any) -> bytes:
        values = json.loads(written(ANSWER)) | changes
        document = Answer.model_construct(**values | {"time": ANSWER.time})
        return written(ANSWER, **changes, sha256=document._digest())

    assert Answer.parse(sealed()) == ANSWER
    other = certificates.make_authority("chest").certificate.decode()
    for changes, text in (
        ({"authority": other}, "the authority is not the one of authority_fingerprint"),
        ({"authority": "none"}, "expected certificates as PEM text"),
        ({"server": "0.0.0.0:9092"}, "server: expected an address"),
        ({"server": "--insecure"}, "server: expected host:port"),
    ):
        with pytest.raises(EnrolmentError, match=text):
            Answer.parse(sealed(**changes))
    with pytest.raises(EnrolmentError, match="changed after it was written"):
        Answer.parse(written(ANSWER, server="evil.example.org:9092"))


def test_the_one_is_not_taken_for_the_other(tmp_path: Path) -> None:
    REQUEST.write(tmp_path / "request-A.json")
    with pytest.raises(
        EnrolmentError, match=r"request-A.json: expected an enrolment answer .* format: Input should"
    ):
        Answer.read(tmp_path / "request-A.json")


def test_a_file_that_cannot_be_one_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "request-A.json"
    with pytest.raises(EnrolmentError, match="got No such file"):
        Request.read(path)
    with pytest.raises(EnrolmentError, match="got Is a directory"):
        Request.read(tmp_path)
    path.write_bytes(b" " * 2**17 + b"{}")
    with pytest.raises(EnrolmentError, match="at most 131072 bytes"):
        Request.read(path)
