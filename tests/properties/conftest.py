"""The hypothesis profile of this folder: the same examples in every run, within seconds on one core."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("properties", max_examples=60, deadline=None, derandomize=True, database=None)
settings.load_profile("properties")
