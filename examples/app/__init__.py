"""An application whose work bgd does in the background."""
