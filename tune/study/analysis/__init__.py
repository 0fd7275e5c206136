"""The statistics of a study, computed from its scores: means, tests, best methods and generalisation gaps."""
