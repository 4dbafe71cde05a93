"""Processes that work for this one, and the frames that go through their pipes."""
