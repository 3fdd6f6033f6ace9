"""An XLA program as a thing: lowered from shapes, read, exported."""
