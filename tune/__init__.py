"""Floor 4, what searches many experiments. The room is still empty: sweeps come with the next issue.

It will hold the search space (which keys of an experiment vary, and how), the sweep (Ray Tune trials, each of
them one ``fedrecon.platform`` experiment with its own sites) and the tables made of its trials. It imports
``fedrecon.platform`` and the floors below, nothing imports it, and ``ray.tune`` is imported here alone.
"""
