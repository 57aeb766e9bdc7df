"""The page of a run: one HTML file that needs nothing beside it. Reads directories; loads neither torch nor MLflow."""
