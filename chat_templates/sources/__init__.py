"""Where chat templates come from: a Jinja found in a checkpoint or file, a TOML file, a bundled family."""
