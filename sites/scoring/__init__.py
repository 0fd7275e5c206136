"""The scores of a site's slices, the pictures of its reconstructions, and the settings of both."""
