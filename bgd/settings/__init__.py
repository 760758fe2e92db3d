"""What the configuration and the environment say."""
