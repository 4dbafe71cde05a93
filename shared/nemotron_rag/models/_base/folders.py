"""Local folders that are no whole checkpoint in a number format that is read: adapters and quantized weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import CheckpointError
from nemotron_rag.models.catalog import CATALOG

__all__ = ["refuse_adapter", "refuse_quantized", "saved_as"]


def refuse_adapter(folder: Path) -> None:
    """Raise if a folder holds a LoRA adapter: without its base model it computes nothing, and it is not merged here.

    Raises:
        CheckpointError: it does; the message says how to merge it.
    """
    if not (folder / "adapter_config.json").is_file():
        return
    base = one_line(str(_fields(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"))
    raise CheckpointError(
        f"folder {folder} holds a LoRA adapter (adapter_config.json), not a model; merge it with PEFT, "
        f"PeftModel.from_pretrained(<{base}>, <folder>).merge_and_unload().save_pretrained(<new folder>), "
        "and give that folder; if its weights are merged already, remove adapter_config.json"
    )


def refuse_quantized(folder: Path, family: str) -> None:
    """Raise if weights are in FP8, NVFP4, 4 bits or the like, with the name of the same model in BF16 if it is known.

    Args:
        folder: the checkpoint.
        family: its family's module.

    Raises:
        CheckpointError: they are.
    """
    config = _fields(folder / "config.json")
    text = config.get("text_config") or config.get("llm_config") or config
    found = config.get("quantization_config") or text.get("quantization_config")
    other = _fields(folder / "hf_quant_config.json").get("quantization") or {}
    found = found or (other if other.get("quant_algo") else None)  # it may be the cache alone that is quantized
    if not found:
        return
    kind = found.get("quant_algo") or found.get("format") or found.get("quant_method")
    rows = [spec for spec in CATALOG if spec.family == family and spec.repo]
    fitting = [spec for spec in rows if not spec.dimensions or spec.dimensions[-1] == text.get("hidden_size")]
    names = " or ".join(str(spec.repo) for spec in fitting or rows) or "the model that was quantized"
    raise CheckpointError(f"the weights of checkpoint {folder} are quantized ({kind}), which is not read; give {names}")


def saved_as(folder: Path) -> str | None:
    """The class of sentence-transformers that saved a folder, such as ``CrossEncoder``; None if none did."""
    return _fields(folder / "config_sentence_transformers.json").get("model_type")


def _fields(path: Path) -> Mapping[str, Any]:
    """The fields of a JSON file; none if it is missing or something else, which others complain about."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, Mapping) else {}
