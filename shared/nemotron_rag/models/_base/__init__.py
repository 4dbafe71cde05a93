"""Base classes and helpers that embedders and rerankers of all families share."""
