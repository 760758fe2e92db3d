"""An application that uses bgd for its background work."""
