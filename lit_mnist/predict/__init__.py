"""Trained networks at work: own pictures, exported files."""
