"""Compress columns in PostgreSQL with pgvector; there is one module for each library that talks to it."""
