"""A run's folder, and how it survives a kill: claims, checkpoints, damage, full disks, signals."""
