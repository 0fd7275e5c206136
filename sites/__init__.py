"""What lives behind a hospital's wall: shard, imaging operator, training, and the only types that leave."""
