from pathlib import Path
def run(config, workdir): print("todo"); return 0
