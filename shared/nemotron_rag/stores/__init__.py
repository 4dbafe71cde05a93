"""What keeps pages: one folder for each vector store, and the page images beside it."""
