"""MR imaging: Fourier transform, sampling masks, coil maps, the measurement operator and the scores.

This package imports nothing by itself, and ``masks`` never loads torch, so that a configuration is
validated fast.
"""
