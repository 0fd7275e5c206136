"""Storage: run folders, checkpoints, Parquet tables, file locks, and the tracking of runs."""
