"""Qdrant Edge, Qdrant's own engine in this process, for the folders of indexes."""
