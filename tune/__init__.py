"""Floor 4, which runs many experiments: sweeps over the keys of an experiment, and studies. Ray Tune runs both.

It imports ``fedrecon.platform`` and the floors below. Only this floor imports ``ray.tune``.
"""
