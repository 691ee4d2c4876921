"""Sweeps: many runs from one command line."""
