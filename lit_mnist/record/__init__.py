"""The record of a run: what lies on disk."""
