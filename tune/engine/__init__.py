"""The engine: runs planned trials on a cluster with Ray Tune, and records them in the trial table and in MLflow."""
