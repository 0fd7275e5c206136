"""Inference: apply the network of a finished run to score it, to reconstruct files, or to compare methods."""
