"""Sweeps: many experiments over searched keys, with the table, the figures and the page of their results."""
