"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for two generations of GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed on this platform")


@pytest.mark.slow
def test_the_kernels_compute_what_the_derivation_says() -> None:
    """In a process of its own: Triton chooses between interpreter and compiler when it is imported."""
    cases = Path(__file__).with_name("gpu_interpreted.py")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cases],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert found.returncode == 0, found.stdout
    assert re.search(r"\b\d\d passed", found.stdout)


# c and N: the four stages of a ResNet-50 at 224², its first at 448² and a ResNet-18's first, and a large group.
STAGES = [(8, 3136), (16, 784), (32, 196), (64, 49), (8, 12544), (2, 3136), (256, 49)]
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have, CUDA C Programming Guide, table 27


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """(shared memory, registers spilled or on a stack) of a kernel compiled for a GPU that is not here."""
    from triton.backends import nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from acm_core.ops import gpu

    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    assert request.config.cache is not None
    monkeypatch.setenv("TRITON_CACHE_DIR", str(request.config.cache.mkdir("triton")))

    def compile_for(
        capability: int, width: int, positions: int, layout: str, dtype: str, *, backward: bool
    ) -> tuple[int, dict[str, int]]:
        kernel = gpu.backward_kernel if backward else gpu.forward_kernel
        constants = gpu.specialisation(width, positions, 32, layout == "channels_last", backward=backward)
        warps = constants.pop("num_warps")
        images = {"x", "y", "grad_x", "grad_y"}
        signature = {
            name: "constexpr" if name in constants else f"*{dtype if name in images else 'fp32'}"
            for name in kernel.arg_names
        }
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if name not in constants
        }
        made = triton.compile(
            ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps},
        )
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(made.asm["cubin"])
        dump = subprocess.run(
            [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
        used = dict(pair.split(":") for pair in dump.split() if pair.split(":")[0] in ("STACK", "LOCAL"))
        return made.metadata.shared, {name: int(count) for name, count in used.items()}

    return compile_for


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("capability", "dtype"), [(80, "bf16"), (90, "fp32")])
def test_compiles_for_a_gpu_within_its_memory_and_without_spills(
    resources: Any, capability: int, dtype: str, layout: str, backward: bool
) -> None:
    for width, positions in STAGES:
        shared, spilled = resources(capability, width, positions, layout, dtype, backward=backward)
        assert shared <= SHARED_MEMORY[capability], (width, positions)
        assert spilled == {"STACK": 0, "LOCAL": 0}, (width, positions)
