"""Measurements of what decides how a network trains: curvature, gradient noise, units and norms."""
