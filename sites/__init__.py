"""Everything behind a hospital's wall: shard, imaging operator, training, scoring, and the types that cross it."""
