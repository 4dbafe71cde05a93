"""Imported before the parts' processes are forked."""
