"""Models built from the spine's parts; none imports another."""
