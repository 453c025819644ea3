"""Adapters that put a codec between an application and its vector index, and the report of what that costs."""
