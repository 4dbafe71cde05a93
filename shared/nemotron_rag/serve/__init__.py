"""Models and an index behind HTTP, in the wire formats that clients already speak: extra ``serve``."""

from __future__ import annotations

from nemotron_rag.serve.app import make_app
from nemotron_rag.serve.served import Served, ServeSettings

__all__ = ["ServeSettings", "Served", "make_app"]
