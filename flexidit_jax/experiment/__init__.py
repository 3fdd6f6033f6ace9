"""A config as objects, and the model a job begins from: jobs alone read it."""
