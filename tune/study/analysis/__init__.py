"""The statistics of a study. ``analyse`` computes all of them from the scores and methods in ``inputs``.

``grid`` makes cells and tables, ``samples`` means, ``significance`` p-values and intervals, ``best_method`` the best
methods, and ``generalisation_gap`` these gaps and the gains over local training. ``results`` has the result types."""
