"""What a run is made of: its experiment (configuration, dataset, parts), its directory, and its trainings."""
