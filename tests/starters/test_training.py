"""The training code imports what it may, and its command line says what it does."""

from __future__ import annotations

import ast
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nemotron_rag
import training
from nemotron_rag_starters import NAMES, checkpoint
from training.__main__ import main
from training.places import CHECKPOINTS
from training.scale import Scale
from training.stages import Training

SOURCES = sorted(Path(training.__file__).parent.glob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module and name of nemotron_rag that a file imports, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "nemotron_rag"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_one_module_uses_more_than_public_names(path):
    public = {f"nemotron_rag.{name}" for name in nemotron_rag.__all__} | {"nemotron_rag.documents.pdf.find_pdfs"}
    assert path.name == "network.py" or imports(path) <= public


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_module_can_be_imported(path):
    module = importlib.import_module(f"training.{path.stem}" if path.stem != "__init__" else "training")
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def test_the_command_knows_every_stage(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [name for name in (*Training().stages, "export", "evaluate", "latency") if name not in text] == []


def test_the_command_shortens_reading_and_nothing_else(monkeypatch):
    scales = []
    monkeypatch.setattr(Training, "reading", lambda run: scales.append(run.scale))
    main(["reading", "--steps", "7", "--threads", str(torch.get_num_threads())])
    (scale,) = scales
    assert {device: schedule.steps for device, schedule in scale.reading.items()} == {"cpu": 7, "cuda": 7}
    assert replace(scale, reading=Scale().reading) == Scale()


def test_export_goes_where_the_package_looks():
    assert [CHECKPOINTS / name for name in NAMES] == [checkpoint(name) for name in NAMES]
