"""A study a file: what it measures; its page draws and words the JSON."""
