"""Runs: one experiment from its description to its result, artifacts and report, as a training or a transfer test."""
