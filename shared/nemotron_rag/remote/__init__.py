"""Models behind HTTP: the interfaces of `protocols.py` over servers of ours, NVIDIA NIM, vLLM and others.

The classes are in `embedders` and `rerankers`, which need httpx: extra ``remote``.
"""

from __future__ import annotations

from nemotron_rag.remote.endpoint import DIALECTS, Dialect, Endpoint, EndpointOptions
from nemotron_rag.remote.templates import chat_template

__all__ = ["DIALECTS", "Dialect", "Endpoint", "EndpointOptions", "chat_template"]
