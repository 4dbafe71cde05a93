"""Three tiny checkpoints for nemotron-rag: they run on a CPU, offline, through the same code as NVIDIA's models."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NAMES", "checkpoint"]

NAMES: tuple[str, ...] = ("starter-embed-vl", "starter-rerank-vl", "starter-colembed")
"""An embedder, a reranker and a multivector embedder, as nemotron-rag's catalog names them."""

_CHECKPOINTS = Path(__file__).parent / "checkpoints"


def checkpoint(name: str) -> Path:
    """Return the folder of a checkpoint: weights, tokenizer, configuration and model card.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: there is no checkpoint of that name.

    Example:
        >>> from nemotron_rag_starters import checkpoint
        >>> sorted(path.name for path in checkpoint("starter-embed-vl").glob("*.safetensors"))
        ['model.safetensors']
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    return _CHECKPOINTS / name
