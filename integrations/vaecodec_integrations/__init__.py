"""Put a codec between an application and its vector index, and report what that costs."""
