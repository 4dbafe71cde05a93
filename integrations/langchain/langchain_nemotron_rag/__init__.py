"""Nemotron retrieval models for LangChain: find and rank page pictures in-process."""
