"""Nemotron retrieval models for LlamaIndex."""
