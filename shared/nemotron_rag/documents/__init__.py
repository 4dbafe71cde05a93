"""Inputs: images, PDFs, and the access policy for files and URLs that a document names."""
