"""What `--mode` runs, one job a file: `run(config, workdir) -> exit status`."""
