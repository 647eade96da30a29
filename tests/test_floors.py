"""The house's floors: who may import whom, and one address for each third party that may be absent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "suite"

FLOORS = {
    "base": set(),
    "data": {"base"},
    "models": {"base"},
    "executor": {"base"},
    "hub": {"base"},
    "training": {"base", "data", "models"},
}
ADDRESSES = {
    "wandb": {"base/tracker.py"},
    "ray": {"executor/ray.py", "executor/ray_train.py"},
    "transformers": {"models/causal.py"},
    # The Hub is read by data/ (a repo of text is a source) and written by hub/; how its client waits, and how its
    # errors read, is one file on the floor below both.
    "datasets": {"data/hub_files.py"},
    "huggingface_hub": {
        "base/hub.py",
        "data/hub_files.py",
        "hub/cards.py",
        "hub/fetch.py",
        "hub/publish.py",
        "hub/upload.py",
    },
    "httpx2": {"base/hub.py"},
    "fsspec": {"data/access.py"},
    "s3fs": set(),
    "gcsfs": set(),
    "sentencepiece": {"data/pieces.py"},
    "pynvml": {"training/meter.py"},
    "triton": {"models/ops/triton_conv.py", "models/ops/triton_loss.py", "models/ops/triton_scan.py"},
    "mamba_ssm": {"models/ops/mamba_ssm.py"},
    "selective_scan_cuda": set(),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_floors(path):
    floor = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] in ADDRESSES:
            assert path.relative_to(PACKAGE).as_posix() in ADDRESSES[parts[0]], f"{parts[0]} has one address"
        if floor in FLOORS and parts[0] == "suite" and parts[1] not in (floor, "_core", "__version__"):
            allowed = FLOORS[floor]
            assert parts[1] in allowed or ".".join(parts[1:3]) in allowed, f"{floor} must not import {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_doors_hold_no_class_and_import_no_torch_at_the_top(path):
    """A class in a door is __main__.X in one process and suite.door.X in another."""
    tree = ast.parse(path.read_text())
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef)]
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in top for alias in node.names] + [getattr(node, "module", None) or "" for node in top]
    assert not [name for name in names if name.split(".")[0] in ("torch", "numpy", "pydantic")]


def test_no_file_grows_without_a_reason():
    long = [path.name for path in MODULES if len(path.read_text().splitlines()) > 320]
    assert not long
