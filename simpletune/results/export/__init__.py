"""A trained adapter in the layouts that other programs read, and merged into its base."""
