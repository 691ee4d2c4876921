"""A run that was trained, and what it is asked: the ground on which `evaluate`, `predict` and `export` stand."""
