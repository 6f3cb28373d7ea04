"""Networks: their configuration, their parts, and their weights in files."""
