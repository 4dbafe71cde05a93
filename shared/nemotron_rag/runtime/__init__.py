"""What all model families share on the device: batching, workers, attention, the vision feature cache.

The modules need the extra ``local``; import them with `import_local` where it may be missing.
"""

from __future__ import annotations

import importlib
from typing import Any

from nemotron_rag.errors import MissingExtraError

__all__ = ["import_local"]


def import_local(module: str) -> Any:
    """Import a module that needs the extra ``local`` (torch, transformers, ...).

    Args:
        module: full name of the module.

    Raises:
        MissingExtraError: the extra ``local`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("nemotron_rag"):
            raise
        raise MissingExtraError(error.name, "local") from error
