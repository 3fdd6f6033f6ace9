"""From a schedule to samples."""
