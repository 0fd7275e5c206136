"""Planned trials and their table: the plan of a sweep, an estimate of its duration, the trial table, its display."""
