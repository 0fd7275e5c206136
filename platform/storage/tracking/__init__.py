"""Tracking: the record of each run (parameters, metrics, images, artifacts), in MLflow or in memory."""
