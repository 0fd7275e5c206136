"""Forking: Ray's workers as forks of one process that has loaded torch, in place of one import of it in each."""
