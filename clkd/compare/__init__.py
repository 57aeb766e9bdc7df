"""Runs beside each other, read from their directories: neither torch nor MLflow is needed."""
