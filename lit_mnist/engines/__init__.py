"""Engines: many SGD steps per call of the Trainer."""
