"""Configuration: an experiment's file, blocks, overrides and JSON schema. Reading one loads neither torch nor Ray."""
