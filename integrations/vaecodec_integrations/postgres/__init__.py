"""Compressed columns in PostgreSQL with pgvector; one module for each library that talks to it."""
