"""Floor 3: from a schedule to samples."""
