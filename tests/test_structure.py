"""Flower is used by its public face; what reaches inside is little, and in one file a side."""

from __future__ import annotations

import ast
import runpy

from processes import REPOSITORY

ROOMS = runpy.run_path(str(REPOSITORY / "docs" / "rooms.py"))
STRUCTURE = runpy.run_path(str(REPOSITORY / "docs" / "structure.py"))


def test_flowers_insides_are_reached_from_one_file_a_side() -> None:
    files = dict(STRUCTURE["files_here"]())
    found = STRUCTURE["counts"](files)
    assert found["names of Flower that are not public"] <= 12
    assert found["changes of its modules"] == found["files with queries of its tables"] == 0
    product = [path for path in files if path.partition("/")[0] in STRUCTURE["SOURCE"][:3]]
    reaching = [path for path in product if set(STRUCTURE["inner_names"](ast.parse(files[path])))]
    assert sorted(reaching) == ["client/link/flower_internals.py", "server/link/flower_internals.py"]


def test_names_of_insides_and_changes_are_found_whatever_they_are_imported_as() -> None:
    text = """
import flwr.supercore.sql_mixin as mixin
from flwr.app import Message
from flwr.proto import control_pb2, fab_pb2
from flwr.supercore import run_superexec
run_superexec.get_executor = None
mixin.SQLITE_PRAGMAS = ()
Message.size = 1
other.value = 1
"""
    tree = ast.parse(text)
    assert set(STRUCTURE["inner_names"](tree)) == {
        "flwr.supercore.sql_mixin",
        "flwr.proto.control_pb2",
        "flwr.proto.fab_pb2",
        "flwr.supercore.run_superexec",
    }
    assert set(STRUCTURE["patches"](tree)) == {
        "run_superexec.get_executor",
        "mixin.SQLITE_PRAGMAS",
        "Message.size",
    }


def test_the_picture_of_the_rooms_is_the_codes() -> None:
    written = (REPOSITORY / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert ROOMS["drawing"]() == written, "`python docs/rooms.py` draws it anew"


def test_each_room_says_what_is_in_it() -> None:
    for house in ("server", "client", "simulations"):
        assert all(room.says for room in ROOMS["rooms"](house))
    assert all(room.says for layer in ROOMS["layers"]() for room in layer)
