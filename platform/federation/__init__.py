"""The federation: the round loop, the aggregation of scores, and the recorder that commits each round."""
