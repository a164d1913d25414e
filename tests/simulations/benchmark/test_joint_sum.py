"""The table of the joint sum on a small model; no time is asserted."""

from __future__ import annotations

import numpy as np

from simulations.benchmark import joint_sum

MODEL = {
    "conv.weight": np.ones((64, 64, 3, 3), np.float32),
    "norm.running_var": np.zeros(64, np.float32),
    "norm.num_batches_tracked": np.array(3),
    "head.weight": np.zeros((3, 64), np.float32),
}
ROWS = frozenset({"head.weight"})


def test_the_table_of_the_joint_sum() -> None:
    rows = [joint_sum.measure(MODEL, ROWS, sites, 2) for sites in (2, 5)]
    plain = joint_sum.measure_plain(MODEL, ROWS, 1)
    assert {len(seconds) for row in rows for seconds in row["seconds"].values()} == {2}
    size = 4 * (64 * 64 * 9 + 3 * 64) + 8 * (64 + 1 + 1 + 3 + 2)
    assert [row["vector_bytes"] for row in rows] == [size, size]
    assert rows[0]["peak_bytes"] < rows[1]["peak_bytes"] * 1.05
    assert rows[1]["peak_bytes"] < 2.5 * size + 2**20
    document = {"machine": {"device": "here"}, "model_bytes": size, "plain": plain, "rows": rows}
    lines = joint_sum.table(document).splitlines()
    assert lines[1].startswith("plain FedAvg: ")
    assert [line.split()[0] for line in lines[2:]] == ["sites", "2", "5"]
