"""One file per vector store. Stores know no model: they take vectors and pages."""
