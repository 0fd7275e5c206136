"""MR imaging: Fourier transform, sampling masks, coil maps, measurement operators, degradations and metrics.

This package imports nothing by itself. ``masks`` and ``degradations`` load no torch, so that an experiment is
validated fast.
"""
