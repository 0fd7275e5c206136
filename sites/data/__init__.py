"""The data of a site: its shard (one HDF5 file), the volumes in it, and the split of its subjects."""
