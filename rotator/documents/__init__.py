"""Things written whole, with a version, and what stands in front of them: one file per kind."""
