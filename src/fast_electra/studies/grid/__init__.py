"""Studies: grids of methods, settings and seeds, described by a YAML file."""
