"""Studies: methods x training sites x test sites x seeds, with their scores, statistics and report."""
