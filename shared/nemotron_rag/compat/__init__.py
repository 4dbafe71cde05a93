"""Our models in the call shapes of other packages: code that was written for those runs here with another import."""
