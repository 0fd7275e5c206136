"""Floor 4, what searches many experiments: sweeps over the keys of an experiment, and studies. Ray Tune runs both.

It imports ``fedrecon.platform`` and the floors below. ``ray.tune`` is imported on this floor alone.
"""
