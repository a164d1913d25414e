"""The table of messages on a model of one step; no time is asserted."""

from __future__ import annotations

import pytest

from simulations.benchmark import encoding


@pytest.mark.slow
def test_the_table_of_messages() -> None:
    document = encoding.run(rounds=1, patients=20)
    rows = {row["message"]: row for row in document["rows"]}
    share = {name: row["bytes"] / document["model_bytes"] for name, row in rows.items()}
    assert share["int8"] <= 0.27
    assert share["float16"] <= 0.5
    assert share["float32"] < share["whole values"] < share["np.savez, zlib"] < share["np.savez"]
    assert [name for name, row in rows.items() if row["error"] > 0] == ["float16", "int8"]
    assert rows["float16"]["error"] < 1e-3 < rows["int8"]["error"] < 1e-2
    lines = encoding.table(document).splitlines()
    parts = document["parts"]
    assert [line[:16].strip() for line in lines[2:]] == [
        *rows,
        "trains",
        *(row["trainable"] for row in parts),
    ]
    size = {(row["trainable"], row["encoding"]): row["bytes"] for row in parts}
    for kind in ("float32", "float16", "int8"):
        assert size["all", kind] == rows[kind]["bytes"]
        assert size["head", kind] < size["norm", kind] < size["last_stage", kind] / 50
        assert size["last_stage", kind] < size["all", kind]
    assert all(row["bytes"] < row["whole_bytes"] for row in parts if row["trainable"] in ("norm", "head"))
